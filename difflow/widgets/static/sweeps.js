// The view of the sweep explorers: one row of frames a kind of picture, one column a level of step_reverse.

function controls(host, { samplers, classes, max_steps: steps, max_seed: seed }) {
  const fields = form(host);
  fields.select('sampler', 'sampler', samplers.map((name) => [name, name]), String);
  fields.number('steps', 1, steps);
  fields.list('levels', 'levels', 'How many levels, or which: 0, 10, 20');
  fields.seed(seed);
  if (classes.length) fields.select('label', 'class', classes, classOrNone);
  return fields;
}

const MEANINGS = {
  step_reverse: 'The image is noised up to this step, then reversed from there; 0 leaves it as it is',
  't/T': 'step_reverse as a share of all steps',
  'σ': 'Standard deviation of the noise, where the image keeps its own scale in [-1, 1]',
  SNR: 'Signal-to-noise ratio of an image of deviation 0.5: 20 log10(0.5 / σ) decibels',
};

function readout() {
  const values = {};
  const node = make('dl', { class: 'df-readout' });
  for (const [title, meaning] of Object.entries(MEANINGS)) {
    values[title] = make('dd');
    node.append(make('div', { title: meaning }, make('dt', {}, title), values[title]));
  }
  const show = (r, steps, sigma, snr) => {
    values.step_reverse.textContent = `${r} / ${steps}`;
    values['t/T'].textContent = (r / steps).toFixed(2);
    values['σ'].textContent = decimals(sigma);
    values.SNR.textContent = decibels(snr, sigma);
  };
  return { node, show };
}

// What a frame is while its walk is under way: not yet begun, on its way, or what came back.
function stateOf(r, { _share: share, _answered: { steps } }) {
  if (share === 1 || r === 0) return '';
  return r > Math.round((1 - share) * steps) ? ': on its way back' : ': not begun yet';
}

const DISTANCE = 'RMS: root mean square difference of the pixels, 0..2';

// The big pictures: the original, what was sent, what came back; and the numbers.
function stage({ names, shape }) {
  const numbers = readout();
  const panels = ['original', 'noised', ...names].map((name) => figure(name));
  const node = make('div', { class: 'df-stage' }, ...panels.map((panel) => panel.node));
  node.classList.toggle('df-many', names.length > 1);
  panels.slice(0, 2).forEach(({ note }) => { note.hidden = true; }); // there is nothing to be said
  let most = names.length > 1 ? 2 : 1; // lines of a note so far
  const show = (shown, levels, i) => {
    const { sigma, snr } = shown._levels;
    const [original, noised, ...returned] = panels;
    paint(original.canvas, shown._original, 0);
    paint(noised.canvas, shown._noised, i);
    returned.forEach(({ canvas, title, note }, k) => {
      paint(canvas, shown._frames, k * levels.length + i);
      put(title, `${names[k]}${stateOf(levels[i], shown)}`);
      const [first, own] = shown._distances[k]?.[i] ?? [];
      const more = k ? `\n${first?.toFixed(3)} to ${names[0]}` : '';
      const text = shown._notes[k]?.[i];
      put(note, own === undefined ? '' : `RMS ${own.toFixed(3)} to original${more}${text ? `\n${text}` : ''}`);
      note.title += note.title && `\n(${DISTANCE})`;
    });
    const lines = returned.map(({ note }) => note.textContent.split('\n').length);
    node.style.setProperty('--df-lines', most = Math.max(most, ...lines)); // nothing below jumps
    numbers.show(levels[i], shown._answered.steps, sigma[i], snr[i]);
  };
  return { node, numbers: numbers.node, show, layout: (width) => lay(node, panels, shape, width) };
}

function renderSweeps(context) {
  return mount(context, (host) => {
    const { model } = host;
    const offered = model.get('_choices');
    let [levels, current] = [[], 0];
    const nearest = () => {
      const gaps = levels.map((r) => Math.abs(r - model.get('step_reverse')));
      return gaps.indexOf(Math.min(...gaps));
    };
    const show = (i) => { // this level, everywhere
      current = i;
      pictures.show(host.shown(), levels, i);
      strip.show(host.shown(), levels, i);
    };
    const scrub = (i) => {
      if (!levels.length || i === current) return;
      show(i);
      host.scrub({ step_reverse: levels[i] });
    };
    const play = player((direction) => {
      const inside = current + direction >= 0 && current + direction < levels.length;
      if (inside) scrub(current + direction);
      return inside;
    });
    const picker = thumbnails(host);
    const settings = controls(host, offered);
    const pictures = stage(offered);
    const strip = filmStrip(offered, (i) => { play.stop(); scrub(i); });
    strip.side.prepend(play.node);
    return {
      nodes: [picker.node, settings.node, pictures.node, pictures.numbers, strip.node],
      choices: ['image', 'sampler', 'steps', 'seed', 'label', 'levels'],
      sheets: ['_thumbnails', '_original', '_noised', '_frames'],
      values: ['_shelf', '_levels', '_distances', '_panels', '_notes'],
      scrubbed: ['step_reverse'],
      show: (shown, moved) => {
        const next = shown._levels.step_reverse ?? [];
        if (moved) { // by Python, or by an explorer that is linked to this one
          if (levels.length && nearest() !== current) show(nearest());
          return;
        }
        picker.show(shown);
        if (!same(next, levels)) {
          levels = next;
          strip.build(levels);
          strip.layout();
        }
        if (!levels.length) return;
        strip.fill(shown, levels);
        show(nearest());
      },
      mark: () => { picker.mark(); settings.mark(); },
      layout: (width) => { pictures.layout(width); strip.layout(); },
      stop: play.stop,
    };
  });
}

export default { render: renderSweeps };

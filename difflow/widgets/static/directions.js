// The view of the direction explorer: one strip a direction, one column a strength.

const VALUE = "Singular value of the denoiser's Jacobian dD/dx: the length of what a step of length 1 along this direction adds "
  + 'to the denoised image; without unit, 1 leaves the step as it is';
const STRENGTH = 'How far the noisy state is moved along the direction, in units of σ, before it is brought back';
const BASES = { // how directions of each kind are called; `length` is that of one unit of strength
  singular: { name: 'singular value', side: 'singular value', unit: 'σ', frame: 'edited', VALUE, STRENGTH, length: (sigma) => sigma },
  posterior: {
    name: 'standard deviation',
    side: 'sd', // narrow
    unit: 'sd',
    frame: 'posterior',
    VALUE: 'Standard deviation (sd) of the clean image along this principal component of the posterior, '
      + 'the root of an eigenvalue of σ² dD/dx; in units of a pixel, black to white is 2',
    STRENGTH: 'How far the mean of the posterior is moved along the component, in its standard deviations (sd)',
    length: (sigma, value) => value,
  },
};

// The choices that start a new computation.
function directionChoices(host, { sigmas, classes, max_seed: seed }) {
  const fields = form(host);
  fields.select('sigma', 'σ', sigmas.map((s) => [s, decimals(s)]));
  fields.seed(seed);
  if (classes.length) fields.select('label', 'class', classes, classOrNone);
  return fields;
}

// Three big pictures: the noisy state, the direction, the clean image at this strength.
function directionPictures({ shape, basis }) {
  const words = BASES[basis];
  const panels = ['noisy state', 'direction', words.frame].map((name) => figure(name));
  const node = make('div', { class: 'df-stage' }, ...panels.map((panel) => panel.node));
  const show = (shown, direction, strengths, j) => {
    const [state, vector, edited] = panels;
    const { state: black, vectors } = shown._scales;
    const [value, most, { sigma }] = [shown._values[direction], vectors?.[direction], shown._answered];
    paint(state.canvas, shown._state, 0);
    paint(vector.canvas, shown._vectors, direction);
    paint(edited.canvas, shown._frames, direction * strengths.length + j);
    if (value === undefined) return;
    put(state.note, `σ ${decimals(sigma)}\nblack/white ±${decimals(black)}`);
    put(vector.note, `${words.name} ${value.toFixed(3)}\nblack/white ±${decimals(most)}`,
      `${words.VALUE}.\nThe direction has length 1; black and white are its largest pixel`);
    put(edited.note, `strength ${strengths[j]} ${words.unit} = ${decimals(strengths[j] * words.length(sigma, value))}\nblack/white ±1`,
      words.STRENGTH);
  };
  node.style.setProperty('--df-lines', 2);
  return { node, show, layout: (width) => lay(node, panels, shape, width) };
}

// One strip of frames a direction; `choose(direction, j)` is called for a frame chosen by hand.
function directionStrips({ shape, count, strengths, basis }, current, choose) {
  const words = BASES[basis];
  const id = `df-${Math.random().toString(36).slice(2, 8)}`;
  const slider = make('input', { type: 'range', min: 0, max: strengths.length - 1, step: 1,
    'aria-label': 'strength', title: words.STRENGTH, ...NO_SHORTCUTS });
  const rows = Array.from({ length: count }, (_, i) => make('div',
    { class: 'df-strip', role: 'listbox', tabindex: 0, 'aria-label': `direction ${i}`, ...NO_SHORTCUTS },
    ...strengths.map((s, j) => make('div', { role: 'option', id: `${id}-${i}-${j}`, 'aria-label': `strength ${s}`,
      title: `direction ${i}, strength ${s} ${words.unit}` }, make('canvas')))));
  const ticks = strengths.map((s) => make('span', { class: 'df-tick' }, `${s} ${words.unit}`.replace('-', '−')));
  const scroller = make('div', { class: 'df-film' }, slider, ...rows.map((row) => make('div', {}, row)),
    make('div', { class: 'df-axis', title: words.STRENGTH }, ...ticks));
  const values = rows.map(() => make('span', { class: 'df-value', title: words.VALUE }, make('span'), make('i')));
  const side = make('div', { class: 'df-side' }, make('small', { title: words.VALUE }, words.side),
    make('div', { class: 'df-titles df-values' }, ...values),
    make('span', { class: 'df-axis-name', title: words.STRENGTH }, 'strength'));
  const node = make('div', { class: 'df-reel df-rows' }, side, scroller);
  node.style.setProperty('--df-count', strengths.length);
  let [at, cell] = [[0, 0], 0];
  const fill = (shown) => rows.forEach((row, i) => {
    const [value, most] = [shown._values[i], Math.max(...shown._values)];
    values[i].firstChild.textContent = value === undefined ? '' : value.toFixed(2);
    values[i].style.setProperty('--df-share', value === undefined ? 0 : value / most);
    [...row.children].forEach((column, j) => {
      paint(column.firstChild, shown._frames, i * strengths.length + j, CELL_PIXELS);
    });
  });
  const tick = () => {
    const apart = Math.ceil(TICK / (cell || TICK));
    const [, here] = at;
    ticks.forEach((node, j) => node.classList.toggle('df-shown', j === here || (j % apart === 0 && Math.abs(j - here) >= apart)));
    reveal(scroller, rows[at[0]].children[here]);
  };
  const show = (direction, j) => {
    at = [direction, j];
    slider.value = j;
    slider.setAttribute('aria-valuetext', `direction ${direction}, strength ${strengths[j]}`);
    rows.forEach((row, i) => {
      [...row.children].forEach((column, k) => column.setAttribute('aria-selected', i === direction && k === j));
      row.setAttribute('aria-activedescendant', `${id}-${i}-${j}`);
    });
    tick();
  };
  const layout = () => {
    if (!scroller.clientWidth) return;
    const least = Math.round(24 * Math.sqrt(Math.max(1, shape[2] / shape[1])));
    const most = Math.min(160, STRIP_HIGH / count, scroller.clientWidth / 3);
    cell = clamp(Math.floor((scroller.clientWidth - 4) / strengths.length), least, Math.max(least, Math.floor(most)));
    node.style.setProperty('--df-cell', `${cell}px`);
    node.querySelectorAll('canvas').forEach((canvas) => fit(canvas, shape, cell - 2, 0.7));
    node.style.setProperty('--df-row', node.querySelector('canvas').style.height);
    tick();
  };
  slider.addEventListener('input', () => choose(current()[0], Number(slider.value)));
  rows.forEach((row, i) => {
    arrows(row, () => strengths.length, () => Number(slider.value), (j) => choose(i, j));
    [...row.children].forEach((column, j) => column.addEventListener('click', () => choose(i, j)));
  });
  return { node, side, fill, show, layout };
}

function renderDirections(context) {
  return mount(context, (host) => {
    const { model } = host;
    const offered = model.get('_choices');
    const { strengths } = offered;
    const place = () => { // direction and column shown
      const gaps = strengths.map((s) => Math.abs(s - model.get('strength')));
      return [model.get('direction'), gaps.indexOf(Math.min(...gaps))];
    };
    const show = () => {
      if (!host.shown()) return;
      const [direction, j] = place();
      pictures.show(host.shown(), direction, strengths, j);
      rows.show(direction, j);
    };
    const choose = (direction, j) => {
      host.scrub({ direction, strength: strengths[j] });
      show();
    };
    const play = player((move) => {
      const [direction, j] = place();
      const inside = j + move >= 0 && j + move < strengths.length;
      if (inside) choose(direction, j + move);
      return inside;
    });
    const settings = directionChoices(host, offered);
    const pictures = directionPictures(offered);
    const rows = directionStrips(offered, place, (direction, j) => { play.stop(); choose(direction, j); });
    rows.side.prepend(play.node);
    return {
      nodes: [settings.node, pictures.node, rows.node],
      choices: ['sigma', 'seed', 'label'],
      sheets: ['_state', '_vectors', '_frames'],
      values: ['_values', '_scales'],
      scrubbed: ['direction', 'strength'],
      show: (shown, moved) => {
        if (!moved) rows.fill(shown);
        show();
      },
      mark: settings.mark,
      layout: (width) => { pictures.layout(width); rows.layout(); },
      stop: play.stop,
    };
  });
}

export default { render: renderDirections };

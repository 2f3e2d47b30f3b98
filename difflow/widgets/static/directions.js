// The view of the direction explorer: one strip a direction, one column a strength.

// The choices that start a new computation.
function directionChoices(host, { sigmas, classes, max_seed: seed }) {
  const fields = form(host);
  fields.select('sigma', 'σ', sigmas.map((s) => [s, decimals(s)]));
  fields.seed(seed);
  if (classes.length) fields.select('label', 'class', classes, classOrNone);
  return fields;
}

// Three big pictures: the noisy state, the direction, the clean image at this strength.
function directionPictures({ shape }) {
  const panels = ['noisy state', 'direction', 'edited'].map((name) => figure(name));
  const node = make('div', { class: 'df-stage df-one' }, ...panels.map((panel) => panel.node));
  const show = (shown, direction, strengths, j) => {
    const [state, vector, edited] = panels;
    paint(state.canvas, shown._state, 0);
    paint(vector.canvas, shown._vectors, direction);
    paint(edited.canvas, shown._frames, direction * strengths.length + j);
    vector.note.textContent = `singular value ${shown._values[direction]?.toFixed(3) ?? ''}`;
    edited.note.textContent = `strength ${strengths[j]} σ`;
  };
  const layout = (width) => {
    const room = clamp(Math.floor((width - 2 * GAP) / 3), 80, 224);
    panels.forEach(({ canvas }) => fit(canvas, shape, room));
  };
  return { node, show, layout };
}

// One strip of frames a direction; `choose(direction, j)` is called for a frame chosen by hand.
function directionStrips({ shape, count, strengths }, current, choose) {
  const id = `df-${Math.random().toString(36).slice(2, 8)}`;
  const slider = make('input', { type: 'range', min: 0, max: strengths.length - 1, step: 1,
    'aria-label': 'strength', ...NO_SHORTCUTS });
  const rows = Array.from({ length: count }, (_, i) => make('div',
    { class: 'df-strip', role: 'listbox', tabindex: 0, 'aria-label': `direction ${i}`, ...NO_SHORTCUTS },
    ...strengths.map((s, j) => make('div', { role: 'option', id: `${id}-${i}-${j}`, 'aria-label': `strength ${s}` },
      make('canvas'), make('span', { class: 'df-tick' }, String(s))))));
  const node = make('div', { class: 'df-film' }, slider, ...rows.map((row) => make('div', {}, row)));
  node.style.setProperty('--df-count', strengths.length);
  const fill = (shown) => rows.forEach((row, i) => [...row.children].forEach((column, j) => {
    paint(column.firstChild, shown._frames, i * strengths.length + j, CELL_PIXELS);
  }));
  const show = (direction, j) => {
    slider.value = j;
    slider.setAttribute('aria-valuetext', `direction ${direction}, strength ${strengths[j]}`);
    rows.forEach((row, i) => {
      [...row.children].forEach((column, k) => column.setAttribute('aria-selected', i === direction && k === j));
      row.setAttribute('aria-activedescendant', `${id}-${i}-${j}`);
    });
  };
  const layout = () => {
    if (!node.clientWidth) return;
    const cell = clamp(Math.floor((node.clientWidth - 4) / strengths.length), 24, 72);
    node.style.setProperty('--df-cell', `${cell}px`);
    node.querySelectorAll('canvas').forEach((canvas) => fit(canvas, shape, cell - 2));
    rows.forEach((row) => [...row.children].forEach((column) => column.classList.add('df-ticked')));
  };
  slider.addEventListener('input', () => choose(current()[0], Number(slider.value)));
  rows.forEach((row, i) => {
    arrows(row, () => strengths.length, () => Number(slider.value), (j) => choose(i, j));
    [...row.children].forEach((column, j) => column.addEventListener('click', () => choose(i, j)));
  });
  return { node, fill, show, layout };
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
    settings.node.append(play.node);
    return {
      nodes: [settings.node, pictures.node, rows.node],
      choices: ['sigma', 'seed', 'label'],
      sheets: ['_state', '_vectors', '_frames'],
      values: ['_values'],
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

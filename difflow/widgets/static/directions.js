// The view of the direction explorer: one strip a direction, one column a strength.
// The helpers (make, form, paint, fit, clamp, arrows, player, decimals) are those of explorer.js, which comes before this text.

// The choices that start a new computation.
function directionChoices(model, { sigmas, classes, max_seed: seed }) {
  const fields = form(model);
  fields.select('sigma', 'σ', sigmas.map((s) => [s, decimals(s)]));
  fields.seed(seed);
  if (classes.length) fields.select('label', 'class', classes, classOrNone);
  return fields;
}

// Three big pictures: the noisy state, the direction, the clean image at this strength.
function directionPictures(model, { shape }) {
  const panels = ['noisy state', 'direction', 'edited'].map((name) => {
    const canvas = make('canvas', { 'data-panel': name, role: 'img', 'aria-label': name });
    const note = make('small');
    return { canvas, note, node: make('figure', {}, canvas, make('figcaption', {}, make('span', {}, name), note)) };
  });
  const node = make('div', { class: 'df-stage df-one' }, ...panels.map((panel) => panel.node));
  const show = (direction, strengths, j) => {
    const [state, vector, edited] = panels;
    paint(state.canvas, model.get('_state'), 0, shape);
    paint(vector.canvas, model.get('_vectors'), direction, shape);
    paint(edited.canvas, model.get('_frames'), direction * strengths.length + j, shape);
    vector.note.textContent = `singular value ${model.get('_values')[direction]?.toFixed(3) ?? ''}`;
    edited.note.textContent = `strength ${strengths[j]}`;
  };
  const layout = () => {
    const room = clamp(Math.floor((node.clientWidth - 2 * GAP) / 3), 80, 224);
    panels.forEach(({ canvas }) => fit(canvas, shape, room));
  };
  return { node, show, layout };
}

// One strip of frames a direction; `choose(direction, j)` is called for a frame chosen by hand.
function strips(model, { shape, count, strengths }, choose) {
  const id = `df-${Math.random().toString(36).slice(2, 8)}`;
  const slider = make('input', { type: 'range', min: 0, max: strengths.length - 1, step: 1,
    'aria-label': 'strength', ...NO_SHORTCUTS });
  const rows = Array.from({ length: count }, (_, i) => make('div',
    { class: 'df-strip', role: 'listbox', tabindex: 0, 'aria-label': `direction ${i}`, ...NO_SHORTCUTS },
    ...strengths.map((s, j) => make('div', { role: 'option', id: `${id}-${i}-${j}`, 'aria-label': `strength ${s}` },
      make('canvas'), make('span', { class: 'df-tick' }, String(s))))));
  const node = make('div', { class: 'df-film' }, slider, ...rows.map((row) => make('div', {}, row)));
  node.style.setProperty('--df-count', strengths.length);
  const fill = () => rows.forEach((row, i) => [...row.children].forEach((column, j) => {
    paint(column.firstChild, model.get('_frames'), i * strengths.length + j, shape);
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
  slider.addEventListener('input', () => choose(model.get('direction'), Number(slider.value)));
  rows.forEach((row, i) => {
    arrows(row, () => strengths.length, () => Number(slider.value), (j) => choose(i, j));
    [...row.children].forEach((column, j) => column.addEventListener('click', () => choose(i, j)));
  });
  return { node, fill, show, layout };
}

function renderDirections({ model, el }) {
  const offered = model.get('_choices');
  const { strengths } = offered;
  const place = () => { // direction and column shown
    const gaps = strengths.map((s) => Math.abs(s - model.get('strength')));
    return [model.get('direction'), gaps.indexOf(Math.min(...gaps))];
  };
  const show = () => {
    const [direction, j] = place();
    pictures.show(direction, strengths, j);
    rows.show(direction, j);
  };
  const choose = (direction, j) => {
    model.set('direction', direction);
    model.set('strength', strengths[j]);
    show();
    model.save_changes();
  };
  const step = (move) => {
    const [direction, j] = place();
    const inside = j + move >= 0 && j + move < strengths.length;
    if (inside) choose(direction, j + move);
    return inside;
  };
  const settings = directionChoices(model, offered);
  const pictures = directionPictures(model, offered);
  const bar = progress(model);
  const rows = strips(model, offered, (direction, j) => { play.stop(); choose(direction, j); });
  const play = player(step);
  const error = make('div', { class: 'df-error', role: 'alert' });
  settings.node.append(play.node);
  const root = make('div', { class: 'df-explorer' }, settings.node, pictures.node, bar.node, rows.node, error);
  el.append(root);
  const layout = () => { pictures.layout(); rows.layout(); };
  const update = () => {
    root.setAttribute('aria-busy', bar.show());
    error.title = error.textContent = model.get('error');
    settings.mark();
    rows.fill();
    show();
  };
  const names = ['_frames', '_vectors', '_values', '_state', 'progress', 'error', 'sigma', 'seed', 'label',
    'direction', 'strength'];
  const unfollow = follow(model, root, layout, [[names, update]]);
  layout();
  update();
  return () => {
    play.stop();
    unfollow();
  };
}

export default { render: renderDirections };

// The view of the trajectory explorer: one noised image a time, and under each the numbers that are read from its code.
// The helpers (thumbnails, filmStrip, player, paint, fit, make, ...) are those of explorer.js, which comes before this text.

// The clean and the noised image, and the answer of each read-out.
function trajectoryPictures(model, { shape, times }) {
  const panels = ['clean', 'noised'].map((name) => {
    const canvas = make('canvas', { 'data-panel': name, role: 'img', 'aria-label': name });
    const note = make('small');
    return { canvas, note, node: make('figure', {}, canvas, make('figcaption', {}, make('span', {}, name), note)) };
  });
  const answers = make('dl', { class: 'df-readout', style: 'display: grid; grid-template-columns: repeat(2, auto); width: auto; gap: 8px 28px' });
  const node = make('div', { class: 'df-stage df-one' }, ...panels.map((panel) => panel.node), answers);
  const show = (i) => {
    const [clean, noised] = panels;
    paint(clean.canvas, model.get('_clean'), 0, shape);
    paint(noised.canvas, model.get('_noised'), i, shape);
    clean.note.textContent = model.get('_truth');
    noised.note.textContent = `t = ${decimals(times[i])}, σ = ${decimals(model.get('_levels').sigma[i])}`;
    const rows = [['this time alone', model.get('_single')[i] ?? ''], ...model.get('_answers')];
    answers.replaceChildren(...rows.map(([name, text]) => make('div', {}, make('dt', {}, name), make('dd', {}, text))));
  };
  const layout = () => {
    const room = clamp(Math.floor((node.clientWidth - 2 * GAP) / 4), 80, 224);
    panels.forEach(({ canvas }) => fit(canvas, shape, room));
  };
  return { node, show, layout };
}

function renderTrajectory({ model, el }) {
  const offered = model.get('_choices');
  const { times, factors } = offered;
  const current = () => {
    const gaps = times.map((t) => Math.abs(t - model.get('t')));
    return gaps.indexOf(Math.min(...gaps));
  };
  const show = () => {
    pictures.show(current());
    strip.show(times, current());
  };
  const choose = (i) => {
    model.set('t', times[i]);
    show();
    model.save_changes();
  };
  const step = (move) => {
    const next = current() + move;
    const inside = next >= 0 && next < times.length;
    if (inside) choose(next);
    return inside;
  };
  const picker = thumbnails(model, offered);
  const factor = make('select', { 'aria-label': 'factor' }, ...factors.map((name, i) => make('option', { value: i }, name)));
  factor.addEventListener('change', () => {
    model.set('factor', Number(factor.value));
    model.save_changes();
  });
  const play = player(step);
  const settings = make('div', { class: 'df-controls' }, make('label', {}, make('span', {}, 'factor'), factor));
  const pictures = trajectoryPictures(model, offered);
  const strip = filmStrip(model, { names: [], shape: offered.shape }, (i) => { play.stop(); choose(i); });
  strip.node.querySelector('input').setAttribute('aria-label', 't');
  strip.side.prepend(play.node);
  strip.build(times);
  const error = make('div', { class: 'df-error', role: 'alert' });
  const root = make('div', { class: 'df-explorer' }, picker.node, settings, pictures.node, strip.node, error);
  el.append(root);
  const layout = () => {
    if (!root.clientWidth) return;
    pictures.layout();
    strip.layout();
  };
  const update = () => {
    error.title = error.textContent = model.get('error');
    factor.value = model.get('factor');
    picker.mark();
    strip.fill(times);
    strip.layout();
    show();
  };
  const names = ['_noised', '_clean', '_panels', '_single', '_answers', '_truth', 'error', 'image', 'factor', 't'];
  const unfollow = follow(model, root, layout, [[names, update]]);
  layout();
  update();
  return () => {
    play.stop();
    unfollow();
  };
}

export default { render: renderTrajectory };

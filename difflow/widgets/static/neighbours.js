// The view of the neighbour explorer: the samples, a slider for N, the sample and its nearest training images.
// The helpers (make, paint, fit, clamp, arrows) are those of explorer.js, which comes before this text.
// Of every sample Python sends the training images that were ever among its k nearest, in the order of the set:
// [index, similarity, picture]. Those with an index below N hold the k nearest of the first N, for every N.

const nearestOf = (entrants, n, k) => entrants
  .filter(([index]) => index < n).sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, k);

// The samples; those that are copies at this N are marked.
function samplePicker(model, { samples: count, shape }, choose) {
  const node = make('div', { class: 'df-wall', role: 'radiogroup', 'aria-label': 'Sample', ...NO_SHORTCUTS });
  for (let i = 0; i < count; i++) {
    const canvas = make('canvas');
    paint(canvas, model.get('_samples'), i, shape);
    fit(canvas, shape, clamp(Math.max(shape[1], shape[2]), 28, 48));
    const button = make('button', { type: 'button', role: 'radio' }, canvas);
    button.addEventListener('click', () => choose(i));
    node.append(button);
  }
  const show = (sample, copies) => [...node.children].forEach((button, i) => {
    button.setAttribute('aria-checked', i === sample);
    button.setAttribute('aria-label', `sample ${i}${copies[i] ? ', a copy' : ''}`);
    button.classList.toggle('df-copy', copies[i]);
    button.tabIndex = i === sample ? 0 : -1;
  });
  arrows(node, () => count, () => model.get('sample'), (i) => {
    choose(i);
    node.children[i].focus();
  });
  return { node, show };
}

// The size of the training set: a slider over the stops, and a field for any number.
function setSize(model, { stops, count }, choose) {
  const at = () => stops.filter((stop) => stop <= model.get('n')).length - 1;
  const slider = make('input', { type: 'range', min: 0, max: stops.length - 1, step: 1, 'aria-label': 'N', ...NO_SHORTCUTS });
  const field = make('input', { type: 'number', min: 1, max: count, step: 1, required: '', 'aria-label': 'N exactly' });
  const note = make('output');
  const node = make('div', { class: 'df-controls df-size' }, make('label', {}, make('span', {}, 'N'), slider, field), note);
  slider.addEventListener('input', () => choose(stops[Number(slider.value)]));
  field.addEventListener('change', () => (field.checkValidity() ? choose(Number(field.value)) : show('')));
  const show = (text) => {
    slider.value = at();
    field.value = model.get('n');
    slider.setAttribute('aria-valuetext', `N = ${model.get('n')}`);
    note.textContent = text;
  };
  return { node, show };
}

// The sample, large, and beside it its neighbours.
function neighbourRow(model, { k, shape, threshold }) {
  const names = ['sample', ...Array.from({ length: k }, (_, i) => `neighbour ${i}`)];
  const panels = names.map((name) => {
    const canvas = make('canvas', { 'data-panel': name, role: 'img', 'aria-label': name });
    const title = make('span');
    const note = make('small');
    return { canvas, title, note, node: make('figure', {}, canvas, make('figcaption', {}, title, note)) };
  });
  const node = make('div', { class: 'df-stage df-many' }, ...panels.map((panel) => panel.node));
  const show = (sample, nearest) => {
    const [own, ...others] = panels;
    paint(own.canvas, model.get('_samples'), sample, shape);
    own.title.textContent = `sample ${sample}`;
    own.note.textContent = nearest[0][1] > threshold ? 'a copy' : 'new';
    others.forEach(({ canvas, title, note, node: figure }, i) => {
      figure.hidden = i >= nearest.length;
      if (figure.hidden) return;
      const [index, similarity, picture] = nearest[i];
      paint(canvas, model.get('_pictures'), picture, shape);
      title.textContent = similarity.toFixed(3);
      note.textContent = `image ${index}${similarity > threshold ? '\nabove the threshold' : ''}`;
    });
  };
  const layout = () => {
    const room = Math.floor((node.clientWidth - GAP * k) / (k + 1));
    panels.forEach(({ canvas }) => fit(canvas, shape, clamp(room, 56, 168)));
  };
  return { node, show, layout };
}

function renderNeighbours({ model, el }) {
  const offered = model.get('_choices');
  const { k, threshold, count } = offered;
  const choose = (name, value) => {
    model.set(name, value);
    update();
    model.save_changes();
  };
  const samples = samplePicker(model, offered, (i) => choose('sample', i));
  const size = setSize(model, offered, (n) => choose('n', n));
  const pictures = neighbourRow(model, offered);
  const error = make('div', { class: 'df-error', role: 'alert' });
  const root = make('div', { class: 'df-explorer' }, samples.node, size.node, pictures.node, error);
  el.append(root);
  function update() {
    const [n, sample, table] = [model.get('n'), model.get('sample'), model.get('_table')];
    const copies = table.map((entrants) => nearestOf(entrants, n, 1)[0][1] > threshold);
    samples.show(sample, copies);
    size.show(`of ${count} training images; ${copies.filter(Boolean).length} of ${copies.length} samples are copies`);
    pictures.show(sample, nearestOf(table[sample], n, k));
    error.title = error.textContent = model.get('error');
  }
  const unfollow = follow(model, root, pictures.layout, [[['sample', 'n', 'error'], update]]);
  pictures.layout();
  update();
  return unfollow;
}

export default { render: renderNeighbours };

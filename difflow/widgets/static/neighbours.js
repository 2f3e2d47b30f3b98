// The view of the neighbour explorer: the samples, a slider for N, the sample and its nearest training images.
// Of every sample Python sends the training images that were ever among its k nearest, in the order of the set:
// [index, similarity, picture]. Those with an index below N hold the k nearest of the first N, for every N.

const nearestOf = (entrants, n, k) => entrants
  .filter(([index]) => index < n).sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, k);

// The samples; those that are copies at this N are marked.
function samplePicker(model, { samples: count, shape }, choose) {
  const node = make('div', { class: 'df-wall', role: 'radiogroup', 'aria-label': 'Sample', ...NO_SHORTCUTS });
  for (let i = 0; i < count; i++) {
    const canvas = make('canvas');
    fit(canvas, shape, clamp(Math.max(shape[1], shape[2]), 28, 48));
    const button = make('button', { type: 'button', role: 'radio' }, canvas);
    button.addEventListener('click', () => choose(i));
    node.append(button);
  }
  const fill = (sheet) => [...node.children].forEach((button, i) => paint(button.firstChild, sheet, i, CELL_PIXELS));
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
  return { node, fill, show };
}

// The size of the training set: a slider over the stops, and a field for any number.
function setSize(host, { stops, count }, choose) {
  const { model } = host;
  const at = () => stops.filter((stop) => stop <= model.get('n')).length - 1;
  const slider = make('input', { type: 'range', min: 0, max: stops.length - 1, step: 1, 'aria-label': 'N', ...NO_SHORTCUTS });
  const field = make('input', { type: 'number', min: 1, max: count, step: 1, 'aria-label': 'N exactly' });
  const note = make('output');
  slider.title = 'N, the number of training images, on a logarithmic scale';
  const share = (n) => stops.filter((stop) => stop < n).length / Math.max(1, stops.length - 1);
  const powers = Array.from({ length: 7 }, (_, i) => 10 ** i).filter((n) => n < count && share(n) < 0.88);
  const axis = marks([...powers, count].map((n) => [share(n), String(n)]), slider.title);
  const node = make('div', { class: 'df-controls df-size' }, make('span', { title: slider.title }, 'N'), slider, field, axis, note);
  slider.addEventListener('input', () => choose(stops[Number(slider.value)]));
  field.addEventListener('change', () => {
    const n = Number(field.value);
    if (Number.isInteger(n) && n >= 1 && n <= count) choose(n);
    else host.ask('n', field.value === '' ? '' : n); // Python says what is allowed
  });
  const show = (n, text) => {
    slider.value = at();
    field.value = n;
    slider.setAttribute('aria-valuetext', `N = ${n}`);
    put(note, text);
  };
  return { node, show };
}

const SIMILARITY = 'Cosine of the descriptors of two images, -1..1; 1 is the same image';
const atShare = (node, share) => {
  node.style.setProperty('--df-at', share);
  return node;
};

// Marks of an axis, as [share of its length, text].
const marks = (all, title) => make('div', { class: 'df-marks', title, 'aria-hidden': 'true' },
  ...all.map(([share, text]) => atShare(make('span', {}, text), share)));

// The axis of similarity: the threshold, and a dot for each neighbour.
function likeness({ k, threshold }) {
  const dots = Array.from({ length: k }, () => make('i'));
  const limit = `threshold ${threshold.toFixed(2)}: a copy above it`;
  const line = make('div', { class: 'df-line' }, atShare(make('b', { title: limit }, make('span', {}, limit)), (threshold + 1) / 2), ...dots);
  const ticks = [-1, -0.5, 0, 0.5, 1].map((s) => [(s + 1) / 2, String(s).replace('-', '−')]);
  const node = make('div', { class: 'df-likeness' }, make('span', { title: SIMILARITY }, 'similarity'), make('div', {}, line, marks(ticks, SIMILARITY)));
  const show = (nearest) => dots.forEach((dot, i) => {
    dot.hidden = i >= nearest.length;
    if (dot.hidden) return;
    const [index, similarity] = nearest[i];
    atShare(dot, (similarity + 1) / 2).title = `image ${index}: similarity ${similarity.toFixed(3)}`;
    dot.classList.toggle('df-copy', similarity > threshold);
  });
  return { node, limit, show };
}

// The sample, large, and beside it its neighbours; and their similarities on an axis.
function neighbourRow({ k, shape, threshold }) {
  const panels = ['sample', ...Array.from({ length: k }, (_, i) => `neighbour ${i}`)].map((name) => figure(name));
  const node = make('div', { class: 'df-stage df-many df-last' }, ...panels.map((panel) => panel.node));
  const axis = likeness({ k, threshold });
  const show = (shown, sample, nearest) => {
    const [own, ...others] = panels;
    paint(own.canvas, shown._samples, sample);
    put(own.title, `sample ${sample}`);
    put(own.note, nearest[0][1] > threshold ? 'a copy' : 'new', `The most similar training image: ${nearest[0][1].toFixed(3)}; ${axis.limit}`);
    axis.show(nearest);
    others.forEach(({ canvas, title, note, node: figure }, i) => {
      figure.hidden = i >= nearest.length;
      if (figure.hidden) return;
      const [index, similarity, picture] = nearest[i];
      paint(canvas, shown._pictures, picture);
      put(title, similarity.toFixed(3), `Similarity to the sample. ${SIMILARITY}`);
      put(note, `image ${index}${similarity > threshold ? '\na copy' : ''}`);
    });
  };
  node.style.setProperty('--df-lines', 2);
  return { node, axis: axis.node, show, layout: (width) => lay(node, panels, shape, width) };
}

function renderNeighbours(context) {
  return mount(context, (host) => {
    const { model } = host;
    const offered = model.get('_choices');
    const { k, threshold, count } = offered;
    const show = () => {
      const shown = host.shown();
      if (!shown) return;
      const [n, sample, table] = [model.get('n'), model.get('sample'), shown._table];
      if (!Number.isInteger(n) || n < 1 || n > count) return;
      const copies = table.map((entrants) => nearestOf(entrants, n, 1)[0][1] > threshold);
      samples.show(sample, copies);
      size.show(n, `of ${count} training images; ${copies.filter(Boolean).length} of ${copies.length} samples are copies`);
      pictures.show(shown, sample, nearestOf(table[sample], n, k));
    };
    const choose = (name, value) => {
      host.scrub({ [name]: value });
      show();
    };
    const samples = samplePicker(model, offered, (i) => choose('sample', i));
    const size = setSize(host, offered, (n) => choose('n', n));
    const pictures = neighbourRow(offered);
    return {
      nodes: [samples.node, size.node, pictures.axis, pictures.node],
      choices: [],
      sheets: ['_samples', '_pictures'],
      values: ['_table'],
      scrubbed: ['sample', 'n'],
      show: (shown, moved) => {
        if (!moved) samples.fill(shown._samples);
        show();
      },
      mark: () => {},
      layout: pictures.layout,
    };
  });
}

export default { render: renderNeighbours };

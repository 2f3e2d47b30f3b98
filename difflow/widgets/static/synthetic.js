// The view of the synthetic explorer: a row of real images of a class, a row of synthetic ones, and the predictions of a classifier.
// The helpers (make, form, paint, fit, clamp, progress) are those of explorer.js, which comes before this text.

// A slider over the offered values of one choice.
function slider(model, name, title, values) {
  const input = make('input', { type: 'range', min: 0, max: values.length - 1, step: 1, 'aria-label': title, ...NO_SHORTCUTS });
  const output = make('output');
  const write = () => {
    output.textContent = values[input.value];
    input.setAttribute('aria-valuetext', values[input.value]);
  };
  input.addEventListener('input', () => {
    write();
    model.set(name, values[input.value]);
    model.save_changes();
  });
  input.disabled = values.length < 2;
  const mark = () => {
    input.value = Math.max(0, values.indexOf(model.get(name)));
    write();
  };
  return { node: make('label', { class: 'df-scale' }, make('span', {}, title), input, output), mark };
}

// Class and seed.
function classAndSeed(model, { classes, max_seed: seed }) {
  const fields = form(model);
  fields.select('label', 'class', classes.map((text, value) => [value, text]));
  fields.seed(seed);
  return fields;
}

// One row of pictures, the classifier's prediction under each.
function row(model, { shape, count, classes }, title, pictures, key) {
  const figures = Array.from({ length: count }, (_, i) => {
    const canvas = make('canvas', { role: 'img', 'aria-label': `${title} ${i}` });
    const caption = make('figcaption');
    return { canvas, caption, node: make('figure', {}, canvas, caption) };
  });
  const total = make('small');
  const head = make('div', { class: 'df-row-title' }, make('span', {}, title), total);
  const node = make('div', { class: 'df-row', 'data-row': title }, head, ...figures.map((figure) => figure.node));
  const show = () => {
    const predictions = model.get('_predictions')[key] ?? [];
    figures.forEach(({ canvas, caption, node: figure }, i) => {
      paint(canvas, model.get(pictures), i, shape);
      figure.hidden = i >= model.get('_counts')[key];
      const [label, probability] = predictions[i] ?? [];
      caption.textContent = label === undefined ? '' : `${classes[label]} ${Math.round(100 * probability)} %`;
      caption.classList.toggle('df-wrong', label !== undefined && label !== model.get('label'));
    });
    const right = predictions.filter(([label]) => label === model.get('label')).length;
    total.textContent = predictions.length ? `${right} of ${predictions.length} named right` : '';
  };
  const layout = () => {
    const room = clamp(Math.floor((node.clientWidth - 110) / count) - 6, 24, 96);
    figures.forEach(({ canvas }) => fit(canvas, shape, room));
  };
  return { node, show, layout };
}

function renderSynthetic({ model, el }) {
  const offered = model.get('_choices');
  const choice = classAndSeed(model, offered);
  const sliders = [slider(model, 'guidance', 'guidance', offered.guidances), slider(model, 'steps', 'steps', offered.steps)];
  const rows = [row(model, offered, 'real', '_real', 'real'), row(model, offered, 'synthetic', '_made', 'made')];
  const bar = progress(model);
  const error = make('div', { class: 'df-error', role: 'alert' });
  choice.node.append(...sliders.map((one) => one.node));
  const root = make('div', { class: 'df-explorer' }, choice.node, ...rows.map((one) => one.node), bar.node, error);
  el.append(root);
  const layout = () => { if (root.clientWidth) rows.forEach((one) => one.layout()); };
  const update = () => {
    root.setAttribute('aria-busy', bar.show());
    error.title = error.textContent = model.get('error');
    [choice, ...sliders].forEach((one) => one.mark());
    rows.forEach((one) => one.show());
  };
  const names = ['_real', '_made', '_predictions', '_counts', 'progress', 'error', 'label', 'guidance', 'steps', 'seed'];
  const unfollow = follow(model, root, layout, [[names, update]]);
  layout();
  update();
  return unfollow;
}

export default { render: renderSynthetic };

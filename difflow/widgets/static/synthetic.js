// The view of the synthetic explorer: a row of real images of a class, a row of made ones, and what a classifier says.
// The helpers (make, paint, fit, clamp, dress, progress) are those of explorer.js, which comes before this text.

// A slider over the offered values of one choice.
function scale(model, name, title, values) {
  const input = make('input', { type: 'range', min: 0, max: values.length - 1, step: 1, 'aria-label': title, ...NO_SHORTCUTS });
  const output = make('output');
  const say = () => {
    output.textContent = values[input.value];
    input.setAttribute('aria-valuetext', values[input.value]);
  };
  input.addEventListener('input', () => {
    say();
    model.set(name, values[input.value]);
    model.save_changes();
  });
  input.disabled = values.length < 2;
  const mark = () => {
    input.value = Math.max(0, values.indexOf(model.get(name)));
    say();
  };
  return { node: make('label', { class: 'df-scale' }, make('span', {}, title), input, output), mark };
}

// Class and seed.
function chooser(model, { classes, max_seed: most }) {
  const node = make('div', { class: 'df-controls' });
  const fields = {};
  const send = (name, value) => { model.set(name, value); model.save_changes(); };
  const mark = () => Object.entries(fields).forEach(([name, input]) => { input.value = model.get(name); });
  const field = (name, title, input) => {
    fields[name] = input;
    node.append(make('label', {}, make('span', {}, title), input));
    input.addEventListener('change', () => (input.checkValidity() ? send(name, Number(input.value)) : mark()));
  };
  field('label', 'class', make('select', {}, ...classes.map((text, value) => make('option', { value }, text))));
  field('seed', 'seed', make('input', { type: 'number', min: 0, max: most, step: 1, required: '' }));
  const dice = dress(make('button', { type: 'button', class: 'df-icon' }), 'dice', 'New random seed');
  dice.addEventListener('click', () => send('seed', Math.floor(Math.random() * 10000)));
  node.append(dice);
  return { node, mark };
}

// One row of pictures, the classifier's word under each.
function row(model, { shape, count, classes }, title, pictures, words) {
  const figures = Array.from({ length: count }, (_, i) => {
    const canvas = make('canvas', { role: 'img', 'aria-label': `${title} ${i}` });
    const caption = make('figcaption');
    return { canvas, caption, node: make('figure', {}, canvas, caption) };
  });
  const total = make('small');
  const head = make('div', { class: 'df-row-title' }, make('span', {}, title), total);
  const node = make('div', { class: 'df-row', 'data-row': title }, head, ...figures.map((figure) => figure.node));
  const show = () => {
    const opinions = model.get('_opinions')[words] ?? [];
    figures.forEach(({ canvas, caption, node: figure }, i) => {
      paint(canvas, model.get(pictures), i, shape);
      figure.hidden = i >= model.get('_counts')[words];
      const [answer, share] = opinions[i] ?? [];
      caption.textContent = answer === undefined ? '' : `${classes[answer]} ${Math.round(100 * share)} %`;
      caption.classList.toggle('df-wrong', answer !== undefined && answer !== model.get('label'));
    });
    const right = opinions.filter(([answer]) => answer === model.get('label')).length;
    total.textContent = opinions.length ? `${right} of ${opinions.length} named right` : '';
  };
  const layout = () => {
    const room = clamp(Math.floor((node.clientWidth - 110) / count) - 6, 24, 96);
    figures.forEach(({ canvas }) => fit(canvas, shape, room));
  };
  return { node, show, layout };
}

function renderSynthetic({ model, el }) {
  const offered = model.get('_choices');
  const choice = chooser(model, offered);
  const scales = [scale(model, 'guidance', 'guidance', offered.guidances), scale(model, 'steps', 'steps', offered.steps)];
  const rows = [row(model, offered, 'real', '_real', 'real'), row(model, offered, 'synthetic', '_made', 'made')];
  const bar = progress(model);
  const error = make('div', { class: 'df-error', role: 'alert' });
  choice.node.append(...scales.map((one) => one.node));
  const root = make('div', { class: 'df-explorer' }, choice.node, ...rows.map((one) => one.node), bar.node, error);
  el.append(root);
  const layout = () => { if (root.clientWidth) rows.forEach((one) => one.layout()); };
  const update = () => {
    root.setAttribute('aria-busy', bar.show());
    error.title = error.textContent = model.get('error');
    [choice, ...scales].forEach((one) => one.mark());
    rows.forEach((one) => one.show());
  };
  const names = ['_real', '_made', '_opinions', '_counts', 'progress', 'error', 'label', 'guidance', 'steps', 'seed'];
  const unfollow = follow(model, root, layout, [[names, update]]);
  layout();
  update();
  return unfollow;
}

export default { render: renderSynthetic };

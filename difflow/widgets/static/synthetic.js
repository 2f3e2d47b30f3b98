// The view of the synthetic explorer: a row of real images of a class, a row of synthetic ones, and the predictions of a classifier.

// A slider over the offered values of one choice.
function slider(host, name, title, values) {
  const input = make('input', { type: 'range', min: 0, max: values.length - 1, step: 1, 'aria-label': title, ...NO_SHORTCUTS, ...ASKS });
  const output = make('output');
  const write = () => {
    output.textContent = values[input.value];
    input.setAttribute('aria-valuetext', values[input.value]);
  };
  input.addEventListener('input', () => {
    write();
    host.ask(name, values[input.value]);
  });
  input.disabled = values.length < 2;
  const mark = () => {
    input.value = Math.max(0, values.indexOf(host.model.get(name)));
    write();
  };
  return { node: make('label', { class: 'df-scale' }, make('span', {}, title), input, output), mark };
}

// Class and seed.
function classAndSeed(host, { classes, max_seed: seed }) {
  const fields = form(host);
  fields.select('label', 'class', classes.map((text, value) => [value, text]));
  fields.seed(seed);
  return fields;
}

// One row of pictures, the classifier's prediction under each.
function row({ shape, count, classes }, title, pictures, key) {
  const figures = Array.from({ length: count }, (_, i) => {
    const canvas = make('canvas', { role: 'img', 'aria-label': `${title} ${i}` });
    const caption = make('figcaption');
    return { canvas, caption, node: make('figure', {}, canvas, caption) };
  });
  const total = make('small');
  const head = make('div', { class: 'df-row-title' }, make('span', {}, title), total);
  const node = make('div', { class: 'df-row', 'data-row': title }, head, ...figures.map((figure) => figure.node));
  const show = (shown) => {
    const predictions = shown._predictions[key] ?? [];
    const asked = shown._answered.label;
    figures.forEach(({ canvas, caption, node: figure }, i) => {
      paint(canvas, shown[pictures], i);
      figure.hidden = i >= shown._counts[key];
      const [label, probability] = predictions[i] ?? [];
      caption.textContent = label === undefined ? '' : `${classes[label]} ${Math.round(100 * probability)} %`;
      caption.classList.toggle('df-wrong', label !== undefined && label !== asked);
    });
    const right = predictions.filter(([label]) => label === asked).length;
    total.textContent = predictions.length ? `${right} of ${predictions.length} named right` : '';
  };
  const layout = (width) => {
    const room = clamp(Math.floor((width - 110) / count) - 6, 24, 96);
    figures.forEach(({ canvas }) => fit(canvas, shape, room));
  };
  return { node, show, layout };
}

function renderSynthetic(context) {
  return mount(context, (host) => {
    const offered = host.model.get('_choices');
    const choice = classAndSeed(host, offered);
    const sliders = [slider(host, 'guidance', 'guidance', offered.guidances), slider(host, 'steps', 'steps', offered.steps)];
    const rows = [row(offered, 'real', '_real', 'real'), row(offered, 'synthetic', '_made', 'made')];
    choice.node.append(...sliders.map((one) => one.node));
    return {
      nodes: [choice.node, ...rows.map((one) => one.node)],
      choices: ['label', 'guidance', 'steps', 'seed'],
      sheets: ['_real', '_made'],
      values: ['_predictions', '_counts'],
      show: (shown) => rows.forEach((one) => one.show(shown)),
      mark: () => [choice, ...sliders].forEach((one) => one.mark()),
      layout: (width) => rows.forEach((one) => one.layout(width)),
    };
  });
}

export default { render: renderSynthetic };

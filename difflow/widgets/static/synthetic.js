// The view of the synthetic explorer: a row of real images of a class, a row of synthetic ones, and the predictions of a classifier.

const MEANING = {
  guidance: 'Classifier-free guidance: weight of the class in each prediction; 1 as trained, 0 without the class',
  steps: 'Noise levels that the sampler walks down, from noise to the image',
};
const UNIT = { guidance: '× class', steps: 'noise levels' };

// A slider over the offered values of one choice, from the first to the last.
function slider(host, name, title, values) {
  const input = make('input', { type: 'range', min: 0, max: values.length - 1, step: 1, 'aria-label': title, ...NO_SHORTCUTS, ...ASKS });
  const output = make('output');
  const write = () => {
    output.textContent = `${values[input.value]} ${UNIT[name]}`;
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
  const ends = [values[0], values[values.length - 1]].map((value) => make('small', { 'aria-hidden': 'true' }, String(value)));
  const range = make('span', { class: 'df-pair' }, ends[0], input, ends[1]);
  return { node: make('label', { class: 'df-scale', title: MEANING[name] }, make('span', {}, title), range, output), mark };
}

// Class and seed.
function classAndSeed(host, { classes, max_seed: seed }) {
  const fields = form(host);
  fields.select('label', 'class', classes.map((text, value) => [value, text]));
  fields.seed(seed);
  return fields;
}

// One row of pictures, the classifier's prediction under each.
function row({ shape, count, classes, classifier }, title, pictures, key) {
  const figures = Array.from({ length: count }, (_, i) => {
    const canvas = make('canvas', { role: 'img', 'aria-label': `${title} ${i}` });
    const caption = make('figcaption');
    const bar = make('i', { class: 'df-bar' });
    return { canvas, caption, bar, node: make('figure', {}, canvas, caption, bar) };
  });
  const total = make('small', { title: 'Pictures whose likeliest class is the class chosen' });
  const head = make('div', { class: 'df-row-title' }, make('span', {}, title), total);
  const grid = make('div', { class: 'df-stage' }, ...figures.map((figure) => figure.node));
  const node = make('div', { class: 'df-row', 'data-row': title }, head, grid);
  const show = (shown) => {
    const predictions = shown._predictions[key] ?? [];
    const asked = shown._answered.label;
    figures.forEach(({ canvas, caption, bar, node: figure }, i) => {
      paint(canvas, shown[pictures], i);
      figure.hidden = i >= shown._counts[key];
      const [label, probability] = predictions[i] ?? [];
      const text = label === undefined ? '' : `${classes[label]} ${Math.round(100 * probability)} %`;
      put(caption, text, text && `class ${classes[label]}, probability ${probability.toFixed(3)} by ${classifier}`);
      bar.style.setProperty('--df-share', probability ?? 0);
      caption.classList.toggle('df-wrong', label !== undefined && label !== asked);
    });
    const right = predictions.filter(([label]) => label === asked).length;
    total.textContent = predictions.length ? `${right} of ${predictions.length} named right` : '';
  };
  const layout = (width) => lay(grid, figures, shape, width, 72, 6);
  return { node, show, layout };
}

function renderSynthetic(context) {
  return mount(context, (host) => {
    const offered = host.model.get('_choices');
    const choice = classAndSeed(host, offered);
    const sliders = [slider(host, 'guidance', 'guidance', offered.guidances), slider(host, 'steps', 'steps', offered.steps)];
    const rows = [row(offered, 'real', '_real', 'real'), row(offered, 'synthetic', '_made', 'made')];
    choice.node.append(...sliders.map((one) => one.node));
    const legend = make('small', { class: 'df-legend' });
    put(legend, `Samples of ${offered.denoiser}. Below each picture the likeliest class by `
      + `${offered.classifier}, its probability in percent and as a bar from 0 to 1; red where it is not the class chosen.`);
    return {
      nodes: [choice.node, ...rows.map((one) => one.node), legend],
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

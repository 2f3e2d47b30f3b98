// The view of every explorer: one row of frames a picture kind, one column a level of step_reverse.
// Python computes and sends; this file paints and scrubs, and asks the kernel for nothing while it does.

const FRAME_TIME = 90; // ms between frames that are played
const GAP = 16; // px between the big pictures
const KEYS = {
  ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1,
  PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity,
};
const NO_SHORTCUTS = { 'data-lm-suppress-shortcuts': 'true' }; // JupyterLab leaves the keys to us
const ICONS = {
  play: 'M4 2.5v11l9.5-5.5z',
  pause: 'M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z',
  dice: 'M4 1.5h8A2.5 2.5 0 0 1 14.5 4v8a2.5 2.5 0 0 1-2.5 2.5H4A2.5 2.5 0 0 1 1.5 12V4A2.5 2.5 0 0 1 4 1.5z'
    + 'm1 2.2a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6zm6 6a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6z'
    + 'm-3-3a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6z',
};

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function dress(button, icon, label) {
  const path = `<path fill-rule="evenodd" d="${ICONS[icon]}"/>`;
  button.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true">${path}</svg>`;
  button.title = label;
  button.setAttribute('aria-label', label);
  return button;
}

// Paint picture `index` of a buffer of uint8 pictures, height x width x channels each, at its own size.
function paint(canvas, buffer, index, [channels, height, width]) {
  const size = channels * height * width;
  if (!buffer || buffer.byteLength < (index + 1) * size) return;
  const from = new Uint8Array(buffer.buffer, buffer.byteOffset + index * size, size);
  const image = new ImageData(width, height);
  for (let i = 0, j = 0; i < size; i += channels, j += 4) {
    for (let c = 0; c < 3; c++) image.data[j + c] = from[i + (channels === 3 ? c : 0)];
    image.data[j + 3] = 255;
  }
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext('2d').putImageData(image, 0, 0);
}

// Show a canvas at the most whole device pixels per picture pixel that fit, or shrink it smoothly.
function fit(canvas, [, height, width], room) {
  const ratio = window.devicePixelRatio || 1;
  const longest = Math.max(height, width);
  const whole = Math.floor((room * ratio) / longest) / ratio;
  const scale = whole || room / longest;
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
  canvas.classList.toggle('df-smooth', !whole);
}

// Let the arrow keys choose among `count()` items, from `current()` on.
function arrows(node, count, current, choose) {
  node.addEventListener('keydown', (event) => {
    const move = KEYS[event.key];
    if (move === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    choose(clamp(current() + move, 0, count() - 1));
  });
}

function thumbnails(model, { thumbnails: names, thumbnail_shape: shape }) {
  const group = { class: 'df-thumbnails', role: 'radiogroup', 'aria-label': 'Image' };
  const node = make('div', { ...group, ...NO_SHORTCUTS });
  const current = () => Math.min(model.get('image'), names.length - 1);
  const mark = () => [...node.children].forEach((button, i) => {
    button.setAttribute('aria-checked', i === model.get('image'));
    button.tabIndex = i === current() ? 0 : -1;
  });
  const choose = (i) => {
    model.set('image', i);
    model.save_changes();
    node.children[i].focus();
  };
  names.forEach((name, i) => {
    const canvas = make('canvas');
    paint(canvas, model.get('_thumbnails'), i, shape);
    fit(canvas, shape, clamp(Math.max(shape[1], shape[2]), 40, 56));
    const button = make('button', { type: 'button', role: 'radio', 'aria-label': name, title: name }, canvas);
    button.addEventListener('click', () => choose(i));
    node.append(button);
  });
  arrows(node, () => names.length, current, choose);
  return { node, mark };
}

// Fields for choices, one beside the other; `mark` shows in each what is chosen now.
function form(model) {
  const node = make('div', { class: 'df-controls' });
  const fields = {};
  const mark = () => {
    for (const [name, input] of Object.entries(fields)) input.value = model.get(name) ?? '';
  };
  const send = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const field = (name, title, input, read) => {
    fields[name] = input;
    node.append(make('label', {}, make('span', {}, title), input));
    input.addEventListener('change', () => (input.checkValidity() ? send(name, read(input.value)) : mark()));
  };
  const select = (name, title, options, read = Number) => {
    const nodes = options.map(([value, text]) => make('option', { value: value ?? '' }, text));
    field(name, title, make('select', {}, ...nodes), read);
  };
  const number = (name, min, max) => {
    field(name, name, make('input', { type: 'number', min, max, step: 1, required: '' }), Number);
  };
  const seed = (max) => {
    number('seed', 0, max);
    const button = dress(make('button', { type: 'button', class: 'df-icon' }), 'dice', 'New random seed');
    button.addEventListener('click', () => send('seed', Math.floor(Math.random() * 10000)));
    node.append(button);
  };
  return { node, mark, select, number, seed };
}

const classOrNone = (value) => (value === '' ? null : Number(value));

function controls(model, { samplers, classes, max_steps: steps, max_seed: seed }) {
  const fields = form(model);
  fields.select('sampler', 'sampler', samplers.map((name) => [name, name]), String);
  fields.number('steps', 1, steps);
  fields.seed(seed);
  if (classes.length) fields.select('label', 'class', classes, classOrNone);
  return fields;
}

const decimals = (x) => { // null: no image is left
  if (x === null) return '∞';
  return x === 0 ? '0' : x < 0.01 ? x.toFixed(4) : x < 100 ? x.toPrecision(3) : x.toFixed(0);
};
const decibels = (x, sigma) => { // null: no noise, or no image
  if (x === null) return sigma === null ? '−∞' : '∞';
  return `${x < 0 ? '−' : ''}${Math.abs(x).toFixed(1)} dB`;
};

function readout() {
  const values = {};
  const node = make('dl', { class: 'df-readout' });
  for (const title of ['step_reverse', 't/T', 'σ', 'SNR']) {
    values[title] = make('dd');
    node.append(make('div', {}, make('dt', {}, title), values[title]));
  }
  const show = (r, steps, sigma, snr) => {
    values.step_reverse.textContent = `${r} / ${steps}`;
    values['t/T'].textContent = (r / steps).toFixed(2);
    values['σ'].textContent = decimals(sigma);
    values.SNR.textContent = decibels(snr, sigma);
  };
  return { node, show };
}

// The big pictures: the original, what was sent, what came back, and the numbers.
function stage(model, { names, shape }) {
  const numbers = readout();
  const panels = ['original', 'noised', ...names].map((name) => {
    const canvas = make('canvas', { 'data-panel': name, role: 'img', 'aria-label': name });
    const note = make('small');
    const caption = make('figcaption', {}, make('span', {}, name), note);
    return { canvas, note, node: make('figure', {}, canvas, caption) };
  });
  const node = make('div', { class: 'df-stage' }, ...panels.map((panel) => panel.node), numbers.node);
  node.classList.add(names.length > 1 ? 'df-many' : 'df-one');
  const show = (levels, i) => {
    const { sigma, snr } = model.get('_levels');
    const [original, noised, ...returned] = panels;
    paint(original.canvas, model.get('_original'), 0, shape);
    paint(noised.canvas, model.get('_noised'), i, shape);
    returned.forEach(({ canvas, note }, k) => {
      paint(canvas, model.get('_frames'), k * levels.length + i, shape);
      const [first, own] = model.get('_distances')[k]?.[i] ?? [];
      const more = k ? `\n${first?.toFixed(3)} to ${names[0]}` : '';
      const text = model.get('_notes')[k]?.[i];
      note.textContent = own === undefined ? '' : `RMS ${own.toFixed(3)} to original${more}${text ? `\n${text}` : ''}`;
    });
    numbers.show(levels[i], levels[levels.length - 1], sigma[i], snr[i]);
  };
  const layout = () => {
    const width = node.clientWidth;
    const columns = Math.min(panels.length, Math.max(3, Math.floor(width / 160)));
    const beside = names.length === 1 && width > 640 ? 130 : 0; // room for the numbers
    const room = Math.floor((width - beside - GAP * (columns - 1)) / columns);
    panels.forEach(({ canvas }) => fit(canvas, shape, clamp(room, 80, 256)));
  };
  return { node, show, layout };
}

const SVG = 'http://www.w3.org/2000/svg';
const HEAT_ROW = 12; // px
const LINES_HIGH = 76; // px

function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// One panel of numbers under the frames: rows of cells, or curves; one unit of width is one level.
function panel({ title, kind, names, colors, values }, count) {
  const high = kind === 'heat' ? HEAT_ROW * names.length : LINES_HIGH;
  const frame = { viewBox: `0 0 ${count} ${high}`, preserveAspectRatio: 'none', height: high };
  const svg = draw('svg', { ...frame, role: 'img', 'aria-label': title });
  values.forEach((row, k) => {
    if (kind === 'lines') {
      const points = row.map((y, i) => `${i + 0.5},${2 + (1 - y) * (high - 4)}`).join(' ');
      svg.append(draw('polyline', { points, stroke: colors[k], fill: 'none', 'vector-effect': 'non-scaling-stroke' }));
    } else {
      const at = { y: k * HEAT_ROW, width: 0.94, height: HEAT_ROW - 1, fill: colors[k] };
      row.forEach((y, i) => svg.append(draw('rect', { x: i, ...at, 'fill-opacity': y })));
    }
  });
  const cursor = draw('rect', { y: 0, width: 1, height: high, class: 'df-cursor', 'vector-effect': 'non-scaling-stroke' });
  svg.append(cursor);
  const node = make('figure', {}, make('figcaption', {}, title), svg);
  const side = make('div', { 'aria-hidden': 'true' }, ...names.map((name, k) => {
    const label = make('span', { title: name }, name);
    if (kind === 'lines') label.style.color = colors[k];
    label.style.height = `${high / names.length}px`;
    return label;
  }));
  return { node, side, high, show: (i, text) => {
    cursor.setAttribute('x', i);
    svg.setAttribute('aria-label', values.length ? `${title}: ${text(values)}` : title);
  } };
}

// All panels, under the film strip and as wide; their names stand in `side`.
function panels(model) {
  const node = make('div', { class: 'df-panels' });
  const side = make('div', { class: 'df-panel-names' });
  let parts = [];
  const build = (count) => {
    parts = model.get('_panels').map((data) => panel(data, count));
    node.replaceChildren(...parts.map((part) => part.node));
    side.replaceChildren(...parts.map((part) => part.side));
  };
  const show = (i) => model.get('_panels').forEach(({ names }, k) => parts[k]?.show(i,
    (values) => names.map((name, row) => `${name} ${values[row][i].toFixed(2)}`).join(', ')));
  return { node, side, build, show };
}

// The slider, and under it the film strip of all levels; `choose(i)` is called for a level chosen by hand.
function filmStrip(model, { names, shape }, choose) {
  const kinds = ['noised', ...names];
  const id = `df-${Math.random().toString(36).slice(2, 8)}`;
  const range = { type: 'range', min: 0, step: 1, 'aria-label': 'step_reverse' };
  const slider = make('input', { ...range, ...NO_SHORTCUTS });
  const list = { class: 'df-strip', role: 'listbox', tabindex: 0, 'aria-label': 'Film strip' };
  const strip = make('div', { ...list, 'aria-orientation': 'horizontal', ...NO_SHORTCUTS });
  const numbers = panels(model);
  const scroller = make('div', { class: 'df-film' }, slider, strip, numbers.node);
  const titles = make('div', { class: 'df-titles', 'aria-hidden': 'true' },
    ...kinds.map((name) => make('span', { title: name }, name)));
  const side = make('div', { class: 'df-side' }, titles, numbers.side);
  const node = make('div', { class: 'df-reel' }, side, scroller);
  const columns = () => [...strip.children];

  const build = (levels) => {
    strip.replaceChildren(...levels.map((r, i) => make('div',
      { role: 'option', id: `${id}-${i}`, 'aria-label': `step_reverse ${r}` },
      ...kinds.map(() => make('canvas')), make('span', { class: 'df-tick' }, String(r)))));
    slider.max = levels.length - 1;
    node.style.setProperty('--df-count', levels.length);
  };
  const fill = (levels) => {
    columns().forEach((column, i) => kinds.forEach((_, k) => {
      const [buffer, at] = k ? [model.get('_frames'), (k - 1) * levels.length + i] : [model.get('_noised'), i];
      paint(column.children[k], buffer, at, shape);
    }));
    numbers.build(levels.length);
  };
  const show = (levels, i) => {
    const { sigma, snr } = model.get('_levels');
    const where = `${levels[i]} of ${levels[levels.length - 1]}`;
    slider.value = i;
    slider.setAttribute('aria-valuetext', `${where}, sigma ${decimals(sigma[i])}, SNR ${decibels(snr[i], sigma[i])}`);
    columns().forEach((column, k) => column.setAttribute('aria-selected', k === i));
    strip.setAttribute('aria-activedescendant', `${id}-${i}`);
    numbers.show(i);
    const { offsetLeft, offsetWidth } = strip.children[i]; // kept in sight where the strip is too wide
    const left = offsetLeft - scroller.offsetLeft;
    scroller.scrollLeft = clamp(scroller.scrollLeft, left + offsetWidth - scroller.clientWidth, left);
  };
  const layout = () => {
    const count = strip.children.length;
    if (!count || !scroller.clientWidth) return;
    const cell = clamp(Math.floor((scroller.clientWidth - 4) / count), 20, 72);
    node.style.setProperty('--df-cell', `${cell}px`);
    strip.querySelectorAll('canvas').forEach((canvas) => fit(canvas, shape, cell - 2));
    node.style.setProperty('--df-row', strip.querySelector('canvas').style.height);
    columns().forEach((column, i) => column.classList.toggle('df-ticked', i % Math.ceil(24 / cell) === 0));
  };

  const under = (event) => {
    const { left, width } = strip.getBoundingClientRect();
    const count = strip.children.length;
    return clamp(Math.floor(((event.clientX - left) / width) * count), 0, count - 1);
  };
  slider.addEventListener('input', () => choose(Number(slider.value)));
  arrows(strip, () => strip.children.length, () => Number(slider.value), choose);
  strip.addEventListener('pointerdown', (event) => {
    strip.setPointerCapture(event.pointerId);
    choose(under(event));
  });
  strip.addEventListener('pointermove', (event) => { if (event.buttons & 1) choose(under(event)); });
  return { node, side, build, fill, show, layout };
}

// A button that plays the levels to and fro; `step(direction)` returns false at an end.
function player(step) {
  const node = dress(make('button', { type: 'button', class: 'df-icon' }), 'play', 'Play');
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    dress(node, 'play', 'Play');
  };
  const start = () => {
    let direction = 1;
    timer = setInterval(() => { if (!step(direction)) direction = -direction; }, FRAME_TIME);
    dress(node, 'pause', 'Pause');
  };
  node.addEventListener('click', () => (timer ? stop() : start()));
  return { node, stop };
}

function progress(model) {
  const bar = make('div');
  const node = make('div', { class: 'df-progress', role: 'progressbar', 'aria-label': 'Sweep' }, bar);
  const show = () => {
    const percent = Math.round(100 * model.get('progress'));
    const running = model.get('progress') < 1 && !model.get('error');
    bar.style.width = `${percent}%`;
    node.setAttribute('aria-valuenow', percent);
    node.classList.toggle('df-running', running);
    return running;
  };
  return { node, show };
}

// Call each handler when one of its traits changes, and `layout` when `root` changes its size; returns what ends it.
function follow(model, root, layout, handlers) {
  const listening = handlers.map(([names, handler]) => [names.map((name) => `change:${name}`).join(' '), handler]);
  for (const [events, handler] of listening) model.on(events, handler);
  const observer = new ResizeObserver(layout);
  observer.observe(root);
  return () => {
    observer.disconnect();
    for (const [events, handler] of listening) model.off(events, handler);
  };
}

function render({ model, el }) {
  const choices = model.get('_choices');
  let levels = [];
  let current = 0;

  const show = (i) => { // this level, everywhere
    current = i;
    pictures.show(levels, i);
    strip.show(levels, i);
  };
  const scrub = (i) => {
    if (!levels.length || i === current) return;
    show(i);
    model.set('step_reverse', levels[i]);
    model.save_changes(); // ipywidgets itself waits while a message is on its way
  };
  const step = (direction) => {
    const inside = current + direction >= 0 && current + direction < levels.length;
    if (inside) scrub(current + direction);
    return inside;
  };
  const by_hand = (i) => {
    play.stop();
    scrub(i);
  };
  const nearest = () => {
    const gaps = levels.map((r) => Math.abs(r - model.get('step_reverse')));
    return gaps.indexOf(Math.min(...gaps));
  };

  const picker = thumbnails(model, choices);
  const settings = controls(model, choices);
  const pictures = stage(model, choices);
  const bar = progress(model);
  const strip = filmStrip(model, choices, by_hand);
  const play = player(step);
  const error = make('div', { class: 'df-error', role: 'alert' });
  const root = make('div', { class: 'df-explorer' },
    picker.node, settings.node, pictures.node, bar.node, strip.node, error);
  strip.side.prepend(play.node);
  el.append(root);

  const layout = () => {
    if (!pictures.node.clientWidth) return;
    pictures.layout();
    strip.layout();
  };
  const update = () => { // frames, and levels where they are others
    const next = model.get('_levels').step_reverse ?? [];
    root.setAttribute('aria-busy', bar.show());
    if (next.join() !== levels.join()) {
      levels = next;
      strip.build(levels);
      strip.layout();
    }
    if (!levels.length) return;
    strip.fill(levels);
    show(nearest());
  };
  let frame = null;
  const soon = () => { // once for all that one message brings
    frame ??= requestAnimationFrame(() => {
      frame = null;
      update();
    });
  };
  const mark = () => {
    picker.mark();
    settings.mark();
    error.title = error.textContent = model.get('error');
  };
  const moved = () => { if (levels.length && nearest() !== current) show(nearest()); };
  const unfollow = follow(model, root, layout, [
    [['_levels', '_original', '_noised', '_frames', '_distances', '_panels', '_notes', 'progress', 'error'], soon],
    [['image', 'sampler', 'steps', 'seed', 'label', 'error'], mark],
    [['step_reverse'], moved],
  ]);
  mark();
  layout();
  update();
  return () => {
    play.stop();
    unfollow();
  };
}

export default { render };

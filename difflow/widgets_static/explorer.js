// The view of every explorer: one row of frames a picture kind, one column a level of step_reverse.
// Python computes and sends; this file paints and scrubs, and asks the kernel for nothing while it does.

const FRAME_TIME = 90; // ms between frames of the film
const GAP = 16; // px between the big pictures
const ICONS = {
  play: '<path d="M4 2.5v11l9.5-5.5z"/>',
  pause: '<path d="M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z"/>',
  dice: '<path fill-rule="evenodd" d="M4 1.5h8A2.5 2.5 0 0 1 14.5 4v8a2.5 2.5 0 0 1-2.5 2.5H4A2.5 2.5 0 0 1 1.5 12V4'
    + 'A2.5 2.5 0 0 1 4 1.5zm1 2.2a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6zm6 6a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6z'
    + 'm-3-3a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6z"/>',
};

const icon = (name) => `<svg viewBox="0 0 16 16" aria-hidden="true">${ICONS[name]}</svg>`;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Paint picture `index` of a buffer of uint8 pictures, each height x width x channels, at its own size.
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

// Show a canvas at the largest whole number of device pixels per picture pixel that fits, or shrink it smoothly.
function fit(canvas, [, height, width], room) {
  const ratio = window.devicePixelRatio || 1;
  const scale = Math.floor((room * ratio) / Math.max(height, width)) / ratio || room / Math.max(height, width);
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
  canvas.classList.toggle('df-smooth', scale * ratio < 1);
}

// Move a roving focus along `items` by keyboard; `choose(i)` is called with the index reached.
function arrows(node, count, current, choose) {
  node.addEventListener('keydown', (event) => {
    const move = KEYS[event.key];
    if (move === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    choose(clamp(current() + move, 0, count() - 1));
  });
}

function thumbnails(model, choices) {
  const node = make('div', { class: 'df-thumbnails', role: 'radiogroup', 'aria-label': 'Image', 'data-lm-suppress-shortcuts': 'true' });
  const choose = (i) => { model.set('image', i); model.save_changes(); mark(); node.children[i].focus(); };
  const shape = choices.thumbnail_shape;
  for (let i = 0; i < choices.thumbnails.length; i++) {
    const name = choices.thumbnails[i];
    const button = make('button', { type: 'button', role: 'radio', 'aria-label': name, title: name }, make('canvas'));
    paint(button.firstChild, model.get('_thumbnails'), i, shape);
    fit(button.firstChild, shape, Math.max(40, Math.min(56, Math.max(shape[1], shape[2]))));
    button.addEventListener('click', () => choose(i));
    node.append(button);
  }
  const mark = () => {
    const current = model.get('image');
    [...node.children].forEach((button, i) => {
      button.setAttribute('aria-checked', i === current);
      button.tabIndex = i === Math.min(current, node.children.length - 1) ? 0 : -1;
    });
  };
  arrows(node, () => node.children.length, () => Math.min(model.get('image'), node.children.length - 1), choose);
  return { node, mark };
}

function controls(model, choices) {
  const node = make('div', { class: 'df-controls' });
  const fields = {};
  const field = (name, text, input, ...more) => {
    fields[name] = input;
    node.append(make('label', {}, make('span', {}, text), input, ...more));
    input.addEventListener('change', () => send(name, input));
  };
  const option = (value, text) => make('option', { value }, text);
  const send = (name, input) => {
    if (input.type === 'number' && !input.checkValidity()) return mark(); // back to the last good value
    const value = input.type === 'number' ? Number(input.value) : input.value;
    model.set(name, name === 'label' ? (value === '' ? null : Number(value)) : value);
    model.save_changes();
  };
  const mark = () => { for (const [name, input] of Object.entries(fields)) input.value = model.get(name) ?? ''; };
  field('sampler', 'sampler', make('select', {}, ...choices.samplers.map((name) => option(name, name))));
  field('steps', 'steps', make('input', { type: 'number', min: 1, max: choices.max_steps, step: 1, required: '' }));
  field('seed', 'seed', make('input', { type: 'number', min: 0, max: choices.max_seed, step: 1, required: '' }));
  const dice = make('button', { type: 'button', class: 'df-icon', 'aria-label': 'New random seed', title: 'New random seed' });
  dice.innerHTML = icon('dice');
  dice.addEventListener('click', () => {
    model.set('seed', Math.floor(Math.random() * 10000));
    model.save_changes();
    mark();
  });
  node.append(dice);
  if (choices.classes.length) {
    field('label', 'class', make('select', {}, ...choices.classes.map(([value, text]) => option(value ?? '', text))));
  }
  return { node, mark };
}

function readout() {
  const node = make('dl', { class: 'df-readout' });
  const values = {};
  for (const [name, title] of [['step_reverse', 'step_reverse'], ['t/T', 't/T'], ['sigma', 'σ'], ['snr', 'SNR']]) {
    values[name] = make('dd', { 'data-value': name });
    node.append(make('div', {}, make('dt', {}, title), values[name]));
  }
  const show = (texts) => { for (const [name, text] of Object.entries(texts)) values[name].textContent = text; };
  return { node, show };
}

const number = (value) => (value === 0 ? '0' : value < 0.01 ? value.toFixed(4) : value >= 100 ? value.toFixed(0) : value.toPrecision(3));
const decibels = (value) => (value === null ? '∞' : `${value < 0 ? '−' : ''}${Math.abs(value).toFixed(1)} dB`);

function render({ model, el }) {
  const choices = model.get('_choices');
  const { names, shape } = choices;
  const kinds = ['noised', ...names];
  const picker = thumbnails(model, choices);
  const settings = controls(model, choices);
  const numbers = readout();

  const panel = (name) => {
    const canvas = make('canvas', { 'data-panel': name, role: 'img', 'aria-label': name });
    const note = make('small', { 'data-distance': name });
    return { canvas, note, node: make('figure', {}, canvas, make('figcaption', {}, make('span', {}, name), note)) };
  };
  const panels = ['original', ...kinds].map(panel);
  const stage = make('div', { class: 'df-stage' }, ...panels.map((p) => p.node), numbers.node);
  stage.classList.toggle('df-few', panels.length <= 3);

  const bar = make('div');
  const progress = make('div', { class: 'df-progress', role: 'progressbar', 'aria-label': 'Sweep', 'aria-valuemin': 0, 'aria-valuemax': 100 }, bar);
  const play = make('button', { type: 'button', class: 'df-icon df-play' });
  const slider = make('input', { type: 'range', min: 0, step: 1, 'aria-label': 'step_reverse', 'data-lm-suppress-shortcuts': 'true' });
  const strip = make('div', { class: 'df-strip', role: 'listbox', tabindex: 0, 'aria-label': 'Film strip', 'aria-orientation': 'horizontal',
    'data-lm-suppress-shortcuts': 'true' });
  const titles = make('div', { class: 'df-titles', 'aria-hidden': 'true' }, ...kinds.map((name) => make('span', { title: name }, name)));
  const film = make('div', { class: 'df-film' }, slider, strip);
  const error = make('div', { class: 'df-error', role: 'alert' });
  const root = make('div', { class: 'df-explorer' }, picker.node, settings.node, stage, progress,
    make('div', { class: 'df-reel' }, make('div', { class: 'df-side' }, play, titles), film), error);
  el.append(root);

  let levels = [];
  let current = 0;
  let film_timer = null;

  const nearest = (step) => levels.reduce((best, r, i) => (Math.abs(r - step) < Math.abs(levels[best] - step) ? i : best), 0);

  const show = () => { // the current level in the big pictures, the numbers, the slider and the strip
    const { sigma, snr } = model.get('_levels');
    const distances = model.get('_distances');
    const steps = levels[levels.length - 1];
    panels.forEach((p, k) => {
      if (k === 0) return paint(p.canvas, model.get('_original'), 0, shape);
      if (k === 1) return paint(p.canvas, model.get('_noised'), current, shape);
      paint(p.canvas, model.get('_frames'), (k - 2) * levels.length + current, shape);
      const [first, original] = distances.length ? distances[k - 2][current] : [null, null];
      p.note.textContent = original === null ? '' : `RMS ${original.toFixed(3)} to original`
        + (k > 2 ? `\n${first.toFixed(3)} to ${names[0]}` : '');
    });
    const r = levels[current];
    numbers.show({ step_reverse: `${r} / ${steps}`, 't/T': (r / steps).toFixed(2), sigma: number(sigma[current]), snr: decibels(snr[current]) });
    slider.value = current;
    slider.setAttribute('aria-valuetext', `${r} of ${steps}, sigma ${number(sigma[current])}, SNR ${decibels(snr[current])}`);
    [...strip.children].forEach((column, i) => column.setAttribute('aria-selected', i === current));
    strip.setAttribute('aria-activedescendant', strip.children[current]?.id ?? '');
  };

  const scrub = (index) => {
    if (!levels.length || index === current) return;
    current = clamp(index, 0, levels.length - 1);
    show();
    model.set('step_reverse', levels[current]);
    model.save_changes(); // ipywidgets itself waits while a message is on its way
  };

  const layout = () => {
    const width = root.clientWidth;
    if (!width) return;
    const columns = Math.min(panels.length, Math.max(3, Math.floor(width / 160)));
    const beside = panels.length <= 3 && width > 640 ? 130 : 0; // the numbers stand beside up to three pictures
    panels.forEach((p) => fit(p.canvas, shape, clamp(Math.floor((width - beside - GAP * (columns - 1)) / columns), 80, 256)));
    if (!levels.length) return;
    const cell = clamp(Math.floor((width - film.offsetLeft + root.offsetLeft - 2) / levels.length), 14, 72);
    root.style.setProperty('--df-cell', `${cell}px`);
    for (const canvas of strip.querySelectorAll('canvas')) fit(canvas, shape, cell - 2);
    const row = strip.querySelector('canvas')?.offsetHeight ?? 0;
    root.style.setProperty('--df-row', `${row}px`);
    const every = Math.ceil(24 / cell);
    [...strip.children].forEach((column, i) => column.classList.toggle('df-ticked', i % every === 0));
  };

  const rebuild = () => { // the columns of the strip, when the levels change
    const next = model.get('_levels').step_reverse ?? [];
    if (next.join() === levels.join()) return;
    levels = next;
    strip.replaceChildren(...levels.map((r, i) => make('div', { role: 'option', id: `${strip_id}-${i}`, 'aria-label': `step_reverse ${r}` },
      ...kinds.map((name) => make('canvas', { 'data-frame': name })), make('span', { class: 'df-tick' }, String(r)))));
    slider.max = Math.max(levels.length - 1, 0);
    root.style.setProperty('--df-count', levels.length);
    layout();
  };

  const frames = () => {
    rebuild();
    if (!levels.length) return;
    [...strip.children].forEach((column, i) => kinds.forEach((name, k) => {
      if (k === 0) paint(column.children[k], model.get('_noised'), i, shape);
      else paint(column.children[k], model.get('_frames'), (k - 1) * levels.length + i, shape);
    }));
    current = nearest(model.get('step_reverse'));
    show();
    const running = model.get('progress') < 1 && !model.get('error');
    bar.style.width = `${100 * model.get('progress')}%`;
    progress.classList.toggle('df-running', running);
    root.setAttribute('aria-busy', running);
    progress.setAttribute('aria-valuenow', Math.round(100 * model.get('progress')));
  };

  const stop = () => {
    clearInterval(film_timer);
    film_timer = null;
    play.innerHTML = icon('play');
    play.setAttribute('aria-label', 'Play');
    play.title = 'Play';
  };
  const start = () => {
    let direction = current >= levels.length - 1 ? -1 : 1;
    film_timer = setInterval(() => {
      if (current + direction < 0 || current + direction >= levels.length) direction = -direction;
      scrub(current + direction);
    }, FRAME_TIME);
    play.innerHTML = icon('pause');
    play.setAttribute('aria-label', 'Pause');
    play.title = 'Pause';
  };
  const by_hand = (index) => { stop(); scrub(index); };

  play.addEventListener('click', () => (film_timer ? stop() : start()));
  slider.addEventListener('input', () => by_hand(Number(slider.value)));
  arrows(strip, () => levels.length, () => current, by_hand);
  const under = (event) => Math.floor((event.clientX - strip.getBoundingClientRect().left) / (strip.offsetWidth / levels.length));
  strip.addEventListener('pointerdown', (event) => { strip.setPointerCapture(event.pointerId); by_hand(under(event)); });
  strip.addEventListener('pointermove', (event) => { if (event.buttons & 1) by_hand(clamp(under(event), 0, levels.length - 1)); });

  const strip_id = `df-${Math.random().toString(36).slice(2, 8)}`;
  let pending = null;
  const later = () => { pending ??= requestAnimationFrame(() => { pending = null; frames(); }); };
  const marks = () => { picker.mark(); settings.mark(); };
  const fail = () => { error.textContent = model.get('error'); };
  const moved = () => { const i = nearest(model.get('step_reverse')); if (levels.length && i !== current) { current = i; show(); } };
  const handlers = [
    ['change:_levels change:_noised change:_frames change:_original change:_distances change:progress change:error', later],
    ['change:image change:sampler change:steps change:seed change:label change:error', marks], ['change:error', fail], ['change:step_reverse', moved],
  ];
  for (const [events, handler] of handlers) model.on(events, handler);
  const observer = new ResizeObserver(layout);
  observer.observe(root);
  stop();
  marks();
  fail();
  layout();
  frames();
  return () => {
    stop();
    observer.disconnect();
    for (const [events, handler] of handlers) model.off(events, handler);
  };
}

export default { render };

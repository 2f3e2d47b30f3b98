// What every explorer is made of; its view, in a file of its own, comes after this text in the same module.
// Python computes and sends; the browser paints and scrubs, and asks the kernel for nothing while it does.
// Only the documented interface of anywidget is used: model.get, set, save_changes, on (one event a call), off; and el.

const FRAME_TIME = 90; // ms between frames that are played
const SILENT = 4000; // ms without any news, after which the kernel is called silent
const PULSE = 3000; // ms from one sign of life of the kernel to the next question for one
const ATTENDED = 600_000; // ms after the last touch of mouse or keyboard, during which the kernel is asked at all
const GAP = 16; // px between the big pictures, half of it where there is little room
const CELL_PIXELS = 144; // of the longest side of a frame in a film strip
const KEYS = {
  ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1,
  PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity,
};
const NO_SHORTCUTS = { 'data-lm-suppress-shortcuts': 'true' }; // JupyterLab leaves the keys to us: of the node that has the focus
const FOCUSED = ['button', 'input', 'select', 'textarea'];
const ASKS = { 'data-asks': '' }; // of what needs a kernel: disabled where there is none
const ICONS = {
  play: 'M4 2.5v11l9.5-5.5z',
  pause: 'M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z',
  back: 'M10.5 2.5L5 8l5.5 5.5 1.2-1.2L7.4 8l4.3-4.3z',
  next: 'M5.5 2.5L11 8l-5.5 5.5-1.2-1.2L8.6 8 4.3 3.7z',
  dice: 'M4 1.5h8A2.5 2.5 0 0 1 14.5 4v8a2.5 2.5 0 0 1-2.5 2.5H4A2.5 2.5 0 0 1 1.5 12V4A2.5 2.5 0 0 1 4 1.5z'
    + 'm1 2.2a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6zm6 6a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6z'
    + 'm-3-3a1.3 1.3 0 1 0 0 2.6 1.3 1.3 0 0 0 0-2.6z',
};

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const same = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (FOCUSED.includes(tag)) node.setAttribute(...Object.entries(NO_SHORTCUTS)[0]);
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

const iconButton = (icon, label, more = {}) => dress(make('button', { type: 'button', class: 'df-icon', ...more }), icon, label);

// A sheet: pictures of one size in a grid, in one PNG or WebP, after 8 bytes: width and height of a picture (uint16)
// and their number (uint32), little endian. Returns { image, width, height, count, columns }, or null for no bytes.
async function unpack(buffer) {
  if (!buffer?.byteLength) return null;
  const bytes = ArrayBuffer.isView(buffer) ? buffer : new Uint8Array(buffer);
  const head = new DataView(bytes.buffer, bytes.byteOffset, 8);
  const [width, height, count] = [head.getUint16(0, true), head.getUint16(2, true), head.getUint32(4, true)];
  const file = new Blob([new Uint8Array(bytes.buffer, bytes.byteOffset + 8, bytes.byteLength - 8)]);
  const image = await createImageBitmap(file, { colorSpaceConversion: 'none' });
  return { image, width, height, count, columns: Math.round(image.width / width) };
}

// Paint picture `index` of a sheet at its own size, or with no side longer than `most`.
function paint(canvas, sheet, index, most = Infinity) {
  if (!sheet || index >= sheet.count) return;
  const { image, width, height, columns } = sheet;
  const scale = Math.min(1, most / Math.max(width, height));
  const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const [x, y] = [(index % columns) * width, Math.floor(index / columns) * height];
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, x, y, width, height, 0, 0, w, h);
}

// Show a canvas at the most whole device pixels per picture pixel that fit; smoothly, with no side longer than `room`,
// where these would leave more than 1 - `least` of it empty.
function fit(canvas, [, height, width], room, least = 0) {
  const ratio = window.devicePixelRatio || 1;
  const longest = Math.max(height, width);
  const whole = Math.floor((room * ratio) / longest) / ratio;
  const crisp = whole > 0 && whole * longest >= least * room;
  const scale = crisp ? whole : room / longest;
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
  canvas.classList.toggle('df-smooth', !crisp && scale < 2);
}

// Lay big pictures of one shape out: side by side where each has `least` px, else in even rows of three or more, as
// large as the width allows, up to 512 px or 20 px per picture pixel.
function lay(node, panels, shape, width, least = 100, gap = width < 540 || panels.length > 4 ? GAP / 2 : GAP) {
  const third = Math.floor((width - 2 * gap) / 3);
  const fitting = Math.max(1, Math.floor((width + gap) / (Math.min(least, third) + gap)));
  const columns = Math.ceil(panels.length / Math.ceil(panels.length / fitting));
  const most = clamp(20 * Math.max(shape[1], shape[2]), 256, 512);
  const room = Math.min(most, Math.floor((width - gap * (columns - 1)) / columns));
  Object.entries({ columns, room: `${room}px`, gap: `${gap}px` }).forEach(([name, value]) => {
    node.style.setProperty(`--df-${name}`, value);
  });
  const longest = Math.min(most, Math.floor(room * Math.max(1, shape[1] / shape[2]))); // of tall pictures, the height
  panels.forEach(({ canvas }) => fit(canvas, shape, longest, 0.92));
}

// Write a text, and what it means as a tooltip; the text itself where there is no more to it, as it may be cut off.
function put(node, text, meaning = text) {
  node.textContent = text;
  node.title = meaning;
}

// Bring a part of what scrolls sideways into sight, and, unless a pointer drags there, a little of what is beside it.
function reveal(scroller, part) {
  const [box, view] = [part.getBoundingClientRect(), scroller.getBoundingClientRect()];
  const more = scroller.matches(':active') ? 0 : Math.min(box.width, (view.width - box.width) / 2);
  scroller.scrollLeft += Math.max(0, box.right + more - view.right) - Math.max(0, view.left + more - box.left);
}

// A big picture with its name and a note below.
function figure(name, label = name) {
  const canvas = make('canvas', { 'data-panel': name, role: 'img', 'aria-label': name });
  const title = make('span', { title: label }, label);
  const note = make('small');
  return { canvas, title, note, node: make('figure', {}, canvas, make('figcaption', {}, title, note)) };
}

// Let the arrow keys choose among `count()` items, from `current()` on.
function arrows(node, count, current, choose) {
  node.addEventListener('keydown', (event) => {
    const move = KEYS[event.key];
    if (move === undefined || event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input')) return;
    event.preventDefault();
    event.stopPropagation();
    choose(clamp(current() + move, 0, count() - 1));
  });
}

const decimals = (x) => { // null: no image is left
  if (x === null) return '∞';
  return x === 0 ? '0' : x < 0.01 ? x.toFixed(4) : x < 100 ? x.toPrecision(3) : x.toFixed(0);
};
const decibels = (x, sigma) => { // null: no noise, or no image
  if (x === null) return sigma === null ? '−∞' : '∞';
  return `${x < 0 ? '−' : ''}${Math.abs(x).toFixed(1)} dB`;
};

// Fields for choices, one beside the other; `mark` shows in each what is chosen now. Whatever is typed goes to Python,
// whose sentence says what is allowed.
function form(host) {
  const node = make('div', { class: 'df-controls' });
  const fields = {};
  const mark = () => {
    for (const [name, { input, write }] of Object.entries(fields)) {
      if (!input.matches('.df-typing:focus')) input.value = write(host.model.get(name));
    }
  };
  const field = (name, title, input, read, write = (value) => value ?? '') => {
    fields[name] = { input, write };
    input.setAttribute('data-choice', name);
    node.append(make('label', {}, make('span', {}, title), input));
    input.addEventListener('input', () => input.classList.add('df-typing')); // what is typed stays until it is asked for
    input.addEventListener('change', () => {
      input.classList.remove('df-typing');
      host.ask(name, read(input.value));
    });
    input.addEventListener('keydown', (event) => { if (!event.ctrlKey && !event.metaKey) event.stopPropagation(); });
  };
  const select = (name, title, options, read = Number) => {
    const nodes = options.map(([value, text]) => make('option', { value: value ?? '' }, text));
    field(name, title, make('select', { ...ASKS }, ...nodes), read);
  };
  const typed = (text) => (text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text);
  const number = (name, min, max, title = name) => {
    field(name, title, make('input', { type: 'number', min, max, step: 1, ...ASKS }), typed);
  };
  const list = (name, title, help) => { // one number, or several
    const read = (text) => (/[\s,]/.test(text.trim()) ? text.trim().split(/[\s,]+/).map(typed) : typed(text));
    const write = (value) => (Array.isArray(value) ? value.join(', ') : value ?? '');
    field(name, title, make('input', { type: 'text', title: help, ...ASKS }), read, write);
  };
  const seed = (max) => {
    number('seed', 0, max);
    const button = iconButton('dice', 'New random seed', ASKS);
    button.addEventListener('click', () => host.ask('seed', Math.floor(Math.random() * 10000)));
    node.append(make('span', { class: 'df-pair' }, node.lastChild, button)); // they stay together
  };
  return { node, mark, select, number, list, seed };
}

const classOrNone = (value) => (value === '' ? null : Number(value));

// One page of small pictures to choose `image` from; arrows at its ends turn the page. `_shelf` is { start, count, names }.
function thumbnails(host) {
  const { model } = host;
  const group = { class: 'df-thumbnails', role: 'radiogroup', 'aria-label': 'Image' };
  const row = make('div', { ...group, ...NO_SHORTCUTS });
  const [back, next] = [iconButton('back', 'Images before these', ASKS), iconButton('next', 'Images after these', ASKS)];
  const field = make('input', { type: 'number', min: 0, step: 1, title: 'Index of the image, from 0', ...ASKS });
  const place = make('small');
  const any = make('label', {}, make('span', {}, 'image'), field, place);
  const node = make('div', { class: 'df-shelf' }, back, row, next, any);
  let shelf = { start: 0, count: 0, names: [] };
  let seen = null; // the button brought into sight
  const turn = (pages) => host.ask('_page', model.get('_page') + pages);
  back.addEventListener('click', () => turn(-1));
  next.addEventListener('click', () => turn(1));
  field.addEventListener('change', () => host.ask('image', field.value === '' ? '' : Number(field.value)));
  field.addEventListener('keydown', (event) => event.stopPropagation());
  const choose = (image) => {
    host.ask('image', image);
    row.children[image - shelf.start]?.focus();
  };
  const mark = () => {
    const [image, asked] = [model.get('image'), document.activeElement?.parentNode === row];
    [...row.children].forEach((button, i) => {
      const own = shelf.start + i === image;
      button.setAttribute('aria-checked', own);
      button.tabIndex = own || (i === 0 && !(image - shelf.start in row.children)) ? 0 : -1;
      if (own && asked) button.focus();
    });
    const chosen = row.children[image - shelf.start];
    if (chosen && chosen !== seen && row.clientWidth) reveal(row, seen = chosen);
    field.value = image;
    field.max = shelf.count - 1;
    put(place, `of 0..${shelf.count - 1}`, 'The indices of all images');
  };
  const show = ({ _shelf, _thumbnails }) => {
    if (!_shelf?.names || !_thumbnails) return;
    const turned = !same(shelf, _shelf);
    shelf = _shelf;
    if (turned) {
      row.replaceChildren(...shelf.names.map((name, i) => {
        const button = make('button', { type: 'button', role: 'radio', 'aria-label': name, title: name, ...ASKS }, make('canvas'));
        button.addEventListener('click', () => choose(shelf.start + i));
        return button;
      }));
      row.scrollLeft = 0;
    }
    [...row.children].forEach((button, i) => {
      paint(button.firstChild, _thumbnails, i);
      const { width, height } = _thumbnails;
      fit(button.firstChild, [1, height, width], clamp(Math.max(height, width), 40, 56));
    });
    back.hidden = next.hidden = any.hidden = shelf.count <= shelf.names.length;
    [back.disabled, next.disabled] = [shelf.start === 0, shelf.start + shelf.names.length >= shelf.count];
    mark();
  };
  arrows(row, () => shelf.count, () => model.get('image'), choose);
  new ResizeObserver(() => { if (seen && row.clientWidth) reveal(row, seen); }).observe(row);
  return { node, show, mark };
}

// A button that plays the levels to and fro; `step(direction)` returns false at an end.
function player(step) {
  const node = iconButton('play', 'Play', { 'data-play': '' });
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

// One line about what is shown: is it the answer to what is chosen, how far is it, and is there a kernel?
function statusLine() {
  const bar = make('div');
  const meter = make('div', { class: 'df-progress', role: 'progressbar', 'aria-label': 'Answer' }, bar);
  const text = make('span', { role: 'status' });
  const error = make('span', { class: 'df-error', role: 'alert' });
  const node = make('div', { class: 'df-status' }, meter, make('div', {}, text, error));
  const show = (message, failure, share) => {
    const percent = Math.round(100 * share);
    put(text, message);
    put(error, failure);
    bar.style.width = `${percent}%`;
    meter.setAttribute('aria-valuenow', percent);
    meter.classList.toggle('df-running', share < 1);
  };
  return { node, show };
}

// Hide the picture that stands for this explorer where no kernel is, as long as its live view is here.
function cover(key) {
  if (!key) return () => {};
  const rule = make('style', {}, `[data-df-picture="${key}"] { display: none !important; }`);
  document.head.append(rule);
  return () => rule.remove();
}

// Call `handler` at most once a frame for the changes of all these traits; returns what ends it.
function follow(model, names, handler) {
  let frame = null;
  const soon = () => {
    frame ??= requestAnimationFrame(() => {
      frame = null;
      handler();
    });
  };
  names.forEach((name) => model.on(`change:${name}`, soon));
  return () => {
    cancelAnimationFrame(frame);
    names.forEach((name) => model.off(`change:${name}`, soon));
  };
}

// Ask the kernel for a sign of life while somebody is at the page, so that a dead or restarted one is known before it
// is needed. Python answers { alive }; a busy kernel does so late, and is asked no more until then, or seldom. Where
// the kernel has gone, sending fails, and only this calls `lost`.
function pulse(model, lost) {
  let [touched, asked, patience] = [Date.now(), null, PULSE];
  const beat = async () => {
    asked = Date.now();
    try {
      await model.send({ alive: true });
    } catch {
      lost();
    }
  };
  const answer = (message) => { if (message?.alive) [asked, patience] = [null, PULSE]; };
  const touch = () => { touched = Date.now(); };
  const timer = setInterval(() => {
    if (document.hidden || Date.now() - touched > ATTENDED) return;
    if (asked !== null && Date.now() - asked < patience) return;
    if (asked !== null) patience = Math.min(2 * patience, 20 * PULSE);
    beat();
  }, PULSE);
  const events = ['pointermove', 'keydown'];
  events.forEach((name) => document.addEventListener(name, touch, { passive: true }));
  model.on('msg:custom', answer);
  const end = () => {
    clearInterval(timer);
    events.forEach((name) => document.removeEventListener(name, touch));
    model.off('msg:custom', answer);
  };
  return { beat, end };
}

// Mount an explorer in `el`. `build(host)` returns its view:
//   nodes      what is shown, from top to bottom
//   choices    the traits that are a request: where `_answered` differs from them, the pictures are dimmed, "waiting"
//   sheets     the traits that are sheets, decoded before they are shown; all of one message together
//   values     the other traits that are shown with them
//   scrubbed   the traits that move over what is there
//   show(shown)  paints; `shown` has sheets and values by name
//   mark()     shows in the controls what is chosen now
//   layout(width)  chooses sizes
//   stop()     ends what plays
// `host` has `model`, `ask(name, value)` for what needs an answer, `scrub(values)` for what does not.
function mount({ model, el }, build) {
  let shown = null;
  let [busy, again, ended, silent, gone, timer] = [false, false, false, false, false, null];
  const decoded = {};
  const status = statusLine();
  const relax = () => { // nothing is waited for
    clearTimeout(timer);
    [timer, silent] = [null, false];
  };
  const heard = () => { // news from Python
    relax();
    gone = false;
  };
  const state = () => {
    const dead = model.get('_static') === true || gone;
    const failure = model.get('error') ?? '';
    const answered = shown?._answered ?? {};
    const waiting = view.choices.some((name) => !(name in answered) || !same(model.get(name), answered[name]));
    const share = waiting ? 0 : shown?._share ?? 1;
    let message = '';
    if (model.get('_static') === true) message = 'no kernel on this page: what is here can be looked through';
    else if (dead) message = 'the kernel is gone: run the cell again';
    else if (failure) message = '';
    else if (waiting && silent) message = `waiting: no word from the kernel for ${SILENT / 1000} s; it is busy, was restarted, or is gone`;
    else if (waiting) message = 'waiting';
    else if (share < 1) message = `computing, ${Math.round(100 * share)} %`;
    if (waiting && !dead && timer === null && !silent) timer = setTimeout(() => { silent = true; state(); }, SILENT);
    if (!waiting) relax();
    status.show(message, failure, failure || dead ? 1 : share);
    root.classList.toggle('df-waiting', waiting);
    root.setAttribute('aria-busy', !failure && !dead && (waiting || share < 1));
    root.querySelectorAll('[data-asks]').forEach((node) => node.toggleAttribute('data-dead', dead));
    root.querySelectorAll('[data-dead]').forEach((node) => { node.disabled = true; });
    tools.mark(dead);
    view.mark();
  };
  const host = {
    model,
    ask: (name, value) => {
      model.set(name, value);
      heard();
      state();
      model.save_changes();
      heart?.beat();
    },
    scrub: (values) => {
      Object.entries(values).forEach(([name, value]) => model.set(name, value));
      model.save_changes(); // ipywidgets itself waits while a message is on its way
    },
    shown: () => shown,
  };
  const view = build(host);
  const frame = { root: null, layout: () => layout() };
  const tools = toolbar(host, frame);
  const root = make('div', { class: 'df-explorer' }, make('div', { class: 'df-body' }, tools.node, ...view.nodes, status.node));
  frame.root = root;
  el.append(root);
  const keyed = [...root.querySelectorAll('[data-lm-suppress-shortcuts]')];
  const lend = (event) => { // shortcuts with Ctrl, as that for saving, stay those of JupyterLab
    const ours = !(event.ctrlKey || event.metaKey);
    keyed.forEach((node) => node.toggleAttribute('data-lm-suppress-shortcuts', ours));
  };
  ['keydown', 'keyup', 'pointerdown'].forEach((name) => root.addEventListener(name, lend, true));
  const uncover = cover(model.get('_key'));

  const refresh = async () => { // one at a time; what comes meanwhile is decoded next
    if (busy) { again = true; return; }
    busy = true;
    try {
      do {
        again = false;
        const next = Object.fromEntries([...view.values, '_answered', '_share'].map((name) => [name, model.get(name)]));
        await Promise.all(view.sheets.map(async (name) => {
          const buffer = model.get(name);
          if (decoded[name]?.buffer !== buffer) decoded[name] = { buffer, sheet: await unpack(buffer) };
          next[name] = decoded[name].sheet;
        }));
        if (ended) return;
        shown = next;
        view.show(shown);
        root.setAttribute('data-drawn', '');
        state();
      } while (again);
    } finally { // a sheet that cannot be decoded stops this answer, not the later ones
      busy = false;
    }
  };
  const layout = () => { if (root.clientWidth) view.layout(root.firstChild.clientWidth); };
  const lost = () => {
    if (ended) return;
    gone = true;
    state();
  };
  const heart = model.get('_static') === true ? null : pulse(model, lost);
  const endings = [
    follow(model, [...view.sheets, ...view.values, '_answered', '_share'], () => { heard(); refresh(); }),
    follow(model, view.choices, () => state()), // made here or by Python
    follow(model, ['error', 'progress'], () => { heard(); state(); }),
    follow(model, view.scrubbed ?? [], () => { if (shown) view.show(shown, true); }),
    uncover,
    tools.start(),
  ];
  const observer = new ResizeObserver(layout);
  observer.observe(root);
  state();
  layout();
  refresh().then(layout);
  return () => {
    ended = true;
    heard();
    view.stop?.();
    observer.disconnect();
    heart?.end();
    endings.forEach((end) => end());
    root.remove();
  };
}

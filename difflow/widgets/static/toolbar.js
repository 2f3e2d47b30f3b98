// What all explorers offer beside their own controls: code and pictures to take home, own images, the full width, help.
// Only what Python names in `_tools` is there. A file is asked for by `_asked` and comes as `_file`; an own image goes as
// the bytes of a file, `_own`.

Object.assign(ICONS, {
  code: 'M5.6 3.2L1 8l4.6 4.8 1.1-1.1L3.1 8l3.6-3.7zM10.4 3.2L15 8l-4.6 4.8-1.1-1.1L12.9 8 9.3 4.3z',
  png: 'M2 2h12a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H2a1 1 0 0 1-1-1V3a1 1 0 0 1 1-1zm.5 1.5v7.2l3-3 2.6 2.6 2.6-2.6 2.8 2.8'
    + 'v-7zm8.3 1a1.2 1.2 0 1 1 0 2.4 1.2 1.2 0 0 1 0-2.4z',
  gif: 'M1 2h14v12H1zm1.5 1.4v1.8h1.6V3.4zm0 3.5v2.2h1.6V6.9zm0 3.9v1.8h1.6v-1.8zm9.4-7.4v1.8h1.6V3.4z'
    + 'm0 3.5v2.2h1.6V6.9zm0 3.9v1.8h1.6v-1.8zM5.6 3.4v9.2h4.8V3.4z',
  upload: 'M7.2 11V4.6L4.7 7.1 3.6 6 8 1.6 12.4 6l-1.1 1.1-2.5-2.5V11zM1.5 10.5H3v2.5h10v-2.5h1.5v4h-13z',
  paste: 'M5.5 1.5h5V3H13v11.5H3V3h2.5zM4.5 4.4V13h7V4.4h-1V6h-5V4.4zM7 3v1.5h2V3z',
  draw: 'M11.6 1.3l3.1 3.1-9 9-4 .9.9-4zM3.9 10.9l-.4 1.6 1.6-.4 6.3-6.3-1.2-1.2z',
  wide: 'M4.6 4.2L.8 8l3.8 3.8 1-1L3.6 8.7h8.8l-2 2.1 1 1L15.2 8l-3.8-3.8-1 1 2 2.1H3.6l2-2.1z',
  help: 'M8 .8a7.2 7.2 0 1 1 0 14.4A7.2 7.2 0 0 1 8 .8zm0 1.4a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 0 0 8 2.2z'
    + 'M7.2 10.6h1.6v1.6H7.2zM8 3.9c1.7 0 2.7 1 2.7 2.3 0 1.9-1.9 2-1.9 3.5H7.2c0-2.3 1.9-2.4 1.9-3.5 0-.5'
    + '-.4-.9-1.1-.9-.7 0-1.1.4-1.2 1.2L5.3 6.2C5.4 4.8 6.4 3.9 8 3.9z',
});

const MOST_BYTES = 20e6; // of an own image
const MOST_SENT = 8e6; // a larger one is made smaller here: servers cut the connection at 10 MB a message
const MOST_SIDE = 2048; // px, then
const PAD = 64; // px: the longest side of images that can be drawn
const LINGERS = 4000; // ms that a remark stays

const isField = (node) => node.matches('input:not([type=range]), select, textarea');

// A choice as Python writes it.
const python = (value) => (value === null ? 'None' : value === true ? 'True' : value === false ? 'False' : JSON.stringify(value));
const codeOf = (model) => model.get('_code').replace(/⟨(\w+)⟩/g, (_, name) => python(model.get(name)));

// A box over the page that Escape, its button or a click beside it closes; keys in it reach nobody else.
function openDialog(root, title, ...nodes) {
  const shut = make('button', { type: 'button', class: 'df-button' }, 'Close');
  const head = make('div', { class: 'df-dialog-head' }, make('strong', {}, title), shut);
  const node = make('dialog', { class: 'df-dialog', 'aria-label': title, ...NO_SHORTCUTS }, head, ...nodes);
  const before = document.activeElement;
  shut.addEventListener('click', () => node.close());
  node.addEventListener('click', (event) => { if (event.target === node) node.close(); });
  node.addEventListener('keydown', (event) => event.stopPropagation());
  node.addEventListener('close', () => {
    node.remove();
    before?.focus?.();
  });
  root.append(node);
  node.showModal();
  return node;
}

function download(bytes, name) {
  const link = make('a', { href: URL.createObjectURL(new Blob([bytes])), download: name });
  document.body.append(link); // some hosts see only links on the page
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// A file from Python: the length of a header (uint32), the header as JSON, the content. Null for none.
function unfile(buffer) {
  if (!buffer?.byteLength) return null;
  const bytes = new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);
  const length = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  return { ...head, content: bytes.slice(4 + length) };
}

// A file with a picture that is small enough to be sent.
async function sendable(file) {
  if (file.size <= MOST_SENT) return file;
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, MOST_SIDE / Math.max(picture.width, picture.height));
  const [width, height] = [Math.round(picture.width * scale), Math.round(picture.height * scale)];
  const canvas = Object.assign(make('canvas'), { width, height });
  canvas.getContext('2d').drawImage(picture, 0, 0, width, height);
  return new Promise((resolve) => { canvas.toBlob(resolve, 'image/webp', 0.95); });
}

// A pad to draw an image of this shape on, white or in colours on black; `use(file)` gets the drawing.
function openPad(root, [channels, height, width], use) {
  const scale = Math.floor(256 / Math.max(height, width));
  const canvas = Object.assign(make('canvas', { class: 'df-pad', 'aria-label': 'Drawing' }), { width: width * scale, height: height * scale });
  const context = canvas.getContext('2d');
  const color = make('input', { type: 'color', value: '#ffffff', 'aria-label': 'Colour', title: 'Colour of the brush' });
  const size = make('input', { type: 'range', min: 1, max: 16, value: 8, 'aria-label': 'Brush', title: 'Width of the brush' });
  const action = (text, title) => make('button', { type: 'button', class: 'df-button', title }, text);
  const [undo, clear, done] = [action('Undo', 'Take the last stroke back'), action('Clear', 'Begin again'),
    action('Use', 'Choose this drawing as an own image')];
  let strokes = []; // { color, width, points }
  const redraw = () => {
    context.fillStyle = 'black';
    context.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(context, { lineCap: 'round', lineJoin: 'round' });
    for (const stroke of strokes) {
      Object.assign(context, { strokeStyle: stroke.color, lineWidth: stroke.width });
      context.beginPath();
      stroke.points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      if (stroke.points.length === 1) context.lineTo(...stroke.points[0]);
      context.stroke();
    }
    undo.disabled = clear.disabled = done.disabled = strokes.length === 0;
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * (canvas.width / box.width), (event.clientY - box.top) * (canvas.height / box.height)];
  };
  canvas.addEventListener('pointerdown', (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    const thick = (Number(size.value) / 100) * Math.max(canvas.width, canvas.height);
    strokes.push({ color: color.value, width: thick, points: [at(event)] });
    redraw();
  });
  canvas.addEventListener('pointermove', (event) => {
    if (!(event.buttons & 1) || !strokes.length) return;
    strokes[strokes.length - 1].points.push(at(event));
    redraw();
  });
  undo.addEventListener('click', () => { strokes.pop(); redraw(); });
  clear.addEventListener('click', () => { strokes = []; redraw(); });
  const tools = make('div', { class: 'df-pad-tools' }, ...(channels === 3 ? [color] : []), size, undo, clear, done);
  const dialog = openDialog(root, `Draw an image of ${width} x ${height} pixels`, canvas, tools);
  done.addEventListener('click', () => canvas.toBlob((file) => { dialog.close(); use(file); }, 'image/png'));
  redraw();
}

// Own images: from a file, from the clipboard, or drawn. `paste(event)` takes what Ctrl+V brings.
function ownImages(host, say, frame) {
  const { model } = host;
  const send = async (file) => {
    if (file.size > MOST_BYTES) return say(`An own image must have at most 20 MB, this one has ${(file.size / 1e6).toFixed(1)}.`);
    try { model.set('_own', new DataView(await (await sendable(file)).arrayBuffer())); } catch {
      return say('This file is no picture that the browser can read.');
    }
    return model.save_changes();
  };
  const picker = make('input', { type: 'file', accept: 'image/*', hidden: '', 'aria-label': 'Image file', ...ASKS });
  picker.addEventListener('change', () => {
    if (picker.files.length) send(picker.files[0]);
    picker.value = '';
  });
  const fromClipboard = async () => {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((name) => name.startsWith('image/'));
        if (type) return send(await item.getType(type));
      }
      return say('There is no picture in the clipboard.');
    } catch { return say('The browser does not show the clipboard: click here and press Ctrl+V.'); }
  };
  const paste = (event) => {
    if (isField(event.target) || picker.hasAttribute('data-dead')) return;
    event.preventDefault();
    event.stopPropagation();
    const file = [...event.clipboardData.files].find(({ type }) => type.startsWith('image/'));
    if (file) send(file);
    else say('There is no picture in the clipboard.');
  };
  const { shape } = model.get('_choices');
  const buttons = [
    ['upload', 'Own image from a file', () => picker.click()],
    ['paste', 'Own image from the clipboard (Ctrl+V)', fromClipboard],
  ];
  if (Math.max(shape[1], shape[2]) <= PAD) buttons.push(['draw', 'Draw an own image', () => openPad(frame.root, shape, send)]);
  return { picker, paste, buttons };
}

// The keys that work here: a list of [keys, what they do].
function keysOf(root, pastes) {
  const keys = [];
  const has = (selector) => root.querySelector(selector) !== null;
  if (has('.df-strip, .df-thumbnails, .df-wall')) {
    keys.push(['← ↓ → ↑', 'the one before, the one after, in the row that has the focus']);
    keys.push(['PageUp PageDown', 'five on, five back']);
    keys.push(['Home End', 'the first, the last']);
  }
  if (has('[data-play]')) keys.push(['Space', 'play and pause']);
  if (pastes) keys.push(['Ctrl+V', 'paste a picture as own image']);
  return [...keys, ['?', 'this list'], ['Esc', 'close it']];
}

// The toolbar. `frame` gets `root`, the node of the explorer, once there is one, and has `layout()`.
function toolbar(host, frame) {
  const { model } = host;
  const tools = model.get('_tools') ?? [];
  const remark = make('span', { class: 'df-remark', 'aria-live': 'polite' });
  let [wanted, timer] = [null, null];
  const say = (text) => {
    remark.textContent = text;
    clearTimeout(timer);
    timer = setTimeout(() => { remark.textContent = ''; }, LINGERS);
  };
  const copy = async () => {
    const text = codeOf(model);
    try {
      await navigator.clipboard.writeText(text);
      say('Copied: paste it into a cell.');
    } catch { // refused, or not there
      const area = make('textarea', { class: 'df-code', readonly: '', 'aria-label': 'Code', rows: 12 });
      area.value = text;
      openDialog(frame.root, 'Code of what is shown: copy it with Ctrl+C', area);
      area.select();
    }
  };
  const ask = (kind) => {
    wanted = Math.floor(Math.random() * 2 ** 31);
    say(`Making a ${kind.toUpperCase()}`);
    model.set('_asked', { kind, n: wanted });
    model.save_changes();
  };
  const receive = () => {
    const file = unfile(model.get('_file'));
    if (!file || file.n !== wanted) return; // another view asked for it
    wanted = null;
    download(file.content, file.name);
    say(`Saved as ${file.name}`);
    model.set('_asked', {});
    model.save_changes();
  };
  const own = tools.includes('own') ? ownImages(host, say, frame) : null;
  const help = () => {
    const rows = keysOf(frame.root, own !== null).map(([keys, text]) => make('div', {}, make('dt', {},
      ...keys.split(' ').map((key) => make('kbd', {}, key))), make('dd', {}, text)));
    openDialog(frame.root, 'Keys', make('dl', { class: 'df-keys' }, ...rows));
  };
  const wide = () => {
    const full = frame.root.classList.toggle('df-full');
    buttons.wide.setAttribute('aria-pressed', full);
    frame.layout();
  };
  const buttons = {};
  const add = (icon, label, act, more = {}) => {
    buttons[icon] = iconButton(icon, label, { 'data-tool': icon, ...more });
    buttons[icon].addEventListener('click', act);
  };
  add('code', 'Copy code that reproduces this', copy);
  if (tools.includes('png')) add('png', 'Save as a picture (PNG)', () => ask('png'), ASKS);
  if (tools.includes('gif')) add('gif', 'Save as an animation (GIF)', () => ask('gif'), ASKS);
  own?.buttons.forEach(([icon, label, act]) => add(icon, label, act, ASKS));
  add('wide', 'Full width', wide, { 'aria-pressed': false });
  add('help', 'Keys (?)', help);
  const titles = Object.entries(buttons).map(([icon, button]) => [button, button.title]);
  const node = make('div', { class: 'df-toolbar', role: 'toolbar', 'aria-label': 'Take home, own images, help' },
    remark, ...Object.values(buttons), ...(own ? [own.picker] : []));

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
    const play = frame.root.querySelector('[data-play]');
    if (event.key === '?') help();
    else if (event.key === ' ' && play && !event.target.closest('button')) play.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const mark = (dead) => titles.forEach(([button, title]) => {
    const off = dead && button.hasAttribute('data-asks');
    button.title = off ? `${title}: needs a kernel, and none is here` : title;
    button.disabled = off;
  });
  const start = () => { // once `frame.root` is there
    Object.entries({ tabindex: -1, ...NO_SHORTCUTS }).forEach(([name, value]) => frame.root.setAttribute(name, value));
    const lend = (event) => { // shortcuts with Ctrl, as that for saving, stay those of JupyterLab
      frame.root.toggleAttribute('data-lm-suppress-shortcuts', !(event.ctrlKey || event.metaKey));
    };
    ['keydown', 'keyup', 'pointerdown'].forEach((name) => frame.root.addEventListener(name, lend, true));
    frame.root.addEventListener('keydown', onKey);
    if (own) frame.root.addEventListener('paste', own.paste);
    const end = follow(model, ['_file'], receive);
    return () => {
      end();
      clearTimeout(timer);
      frame.root.querySelectorAll('dialog').forEach((dialog) => dialog.close());
    };
  };
  return { node, mark, start };
}

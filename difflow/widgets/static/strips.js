// The film strip: a slider, under it the frames of all levels, and under these the panels of numbers.

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
function panels() {
  const node = make('div', { class: 'df-panels' });
  const side = make('div', { class: 'df-panel-names' });
  let [parts, names] = [[], []];
  const build = (all, count) => {
    parts = all.map((data) => panel(data, count));
    names = all.map((data) => data.names);
    node.replaceChildren(...parts.map((part) => part.node));
    side.replaceChildren(...parts.map((part) => part.side));
  };
  const show = (i) => parts.forEach((part, k) => part.show(i,
    (values) => names[k].map((name, row) => `${name} ${values[row][i].toFixed(2)}`).join(', ')));
  return { node, side, build, show };
}

// The strip of `names` below the noised frames; `choose(i)` is called for a level chosen by hand; `axis` names the slider.
function filmStrip({ names, shape }, choose, axis = 'step_reverse') {
  const kinds = ['noised', ...names];
  const id = `df-${Math.random().toString(36).slice(2, 8)}`;
  const slider = make('input', { type: 'range', min: 0, step: 1, 'aria-label': axis, ...NO_SHORTCUTS });
  const list = { class: 'df-strip', role: 'listbox', tabindex: 0, 'aria-label': 'Film strip' };
  const strip = make('div', { ...list, 'aria-orientation': 'horizontal', ...NO_SHORTCUTS });
  const numbers = panels();
  const scroller = make('div', { class: 'df-film' }, slider, strip, numbers.node);
  const titles = make('div', { class: 'df-titles', 'aria-hidden': 'true' },
    ...kinds.map((name) => make('span', { title: name }, name)));
  const side = make('div', { class: 'df-side' }, titles, numbers.side);
  const node = make('div', { class: 'df-reel' }, side, scroller);
  const columns = () => [...strip.children];

  const build = (levels) => {
    strip.replaceChildren(...levels.map((r, i) => make('div',
      { role: 'option', id: `${id}-${i}`, 'aria-label': `${axis} ${r}` },
      ...kinds.map(() => make('canvas')), make('span', { class: 'df-tick' }, String(r)))));
    slider.max = levels.length - 1;
    node.style.setProperty('--df-count', levels.length);
  };
  const fill = (shown, levels) => {
    columns().forEach((column, i) => kinds.forEach((_, k) => {
      const [sheet, at] = k ? [shown._frames, (k - 1) * levels.length + i] : [shown._noised, i];
      paint(column.children[k], sheet, at, CELL_PIXELS);
    }));
    numbers.build(shown._panels, levels.length);
  };
  const show = (shown, levels, i) => {
    const { sigma, snr } = shown._levels;
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
  return { node, side, slider, build, fill, show, layout };
}

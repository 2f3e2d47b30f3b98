// The film strip: a slider, under it the frames of all levels, and under these the panels of numbers.

const SVG = 'http://www.w3.org/2000/svg';
const HEAT_ROW = 12; // px
const LINES_HIGH = 76; // px
const TICK = 36; // px that the numbers below a frame need
const STRIP_HIGH = 480; // px of all rows of frames, at most

function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// What the colours of a panel mean: their names, and for curves an axis from 0 to 1.
function key({ title, kind, names, colors }, high) {
  const rows = names.map((name, k) => {
    const swatch = kind === 'lines' ? [make('i', { class: 'df-swatch' })] : [];
    const row = make('span', { title: name }, make('b', {}, name), ...swatch);
    row.style.setProperty('--df-ink', colors[k]);
    row.style.height = `${high / names.length}px`;
    return row;
  });
  const axis = kind === 'lines' ? [make('div', { class: 'df-y' }, ...['1', '0.5', '0'].map((y) => make('span', {}, y)))] : [];
  return make('div', { class: 'df-key', title: `${title}, 0..1`, 'aria-hidden': 'true' }, make('div', { class: 'df-names' }, ...rows), ...axis);
}

// One panel of numbers under the frames: rows of cells, or curves; one unit of width is one level.
function panel({ title, kind, names, colors, values }, levels, axis) {
  const count = levels.length;
  const high = kind === 'heat' ? HEAT_ROW * names.length : Math.max(LINES_HIGH, 11 * names.length);
  const frame = { viewBox: `0 0 ${count} ${high}`, preserveAspectRatio: 'none', height: high };
  const svg = draw('svg', { ...frame, role: 'img', 'aria-label': title });
  const tip = draw('title', {});
  svg.append(tip);
  if (kind === 'lines') {
    const half = { x1: 0, x2: count, y1: high / 2, y2: high / 2, class: 'df-grid', 'vector-effect': 'non-scaling-stroke' };
    svg.append(draw('line', half));
  }
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
  const readings = (i, rows) => rows.map((k) => `${names[k]} ${values[k][i].toFixed(2)}`).join(', ');
  svg.addEventListener('pointermove', (event) => { // the number under the pointer
    if (!values.length) return;
    const { left, top, width, height } = svg.getBoundingClientRect();
    const i = clamp(Math.floor(((event.clientX - left) / width) * count), 0, count - 1);
    const k = clamp(Math.floor(((event.clientY - top) / height) * names.length), 0, names.length - 1);
    const rows = kind === 'heat' ? [k] : names.map((_, row) => row);
    tip.textContent = `${axis} ${levels[i]}: ${readings(i, rows)}`;
  });
  const caption = make('figcaption', { title: `${title}, 0..1` }, make('span', {}, title));
  if (kind === 'heat') {
    caption.append(make('small', { class: 'df-ramp' }, '0', make('i'), '1'));
    caption.style.setProperty('--df-ink', colors[0] ?? 'currentColor');
  }
  const node = make('figure', {}, caption, svg);
  return { node, side: key({ title, kind, names, colors }, high), show: (i) => {
    cursor.setAttribute('x', i);
    svg.setAttribute('aria-label', values.length ? `${title}: ${readings(i, names.map((_, k) => k))}` : title);
  } };
}

// All panels, under the film strip and as wide, and their axis; their names stand in `side`.
function panels(axis) {
  const node = make('div', { class: 'df-panels' });
  const side = make('div', { class: 'df-panel-names' });
  let [parts, ticks] = [[], []];
  const build = (all, levels) => {
    parts = all.map((data) => panel(data, levels, axis));
    ticks = levels.map((r) => make('span', { class: 'df-tick' }, String(r)));
    const under = all.length ? [make('div', { class: 'df-axis', title: axis, 'aria-hidden': 'true' }, ...ticks)] : [];
    node.replaceChildren(...parts.map((part) => part.node), ...under);
    side.replaceChildren(...parts.map((part) => part.side), ...under.map(() => make('span', { class: 'df-axis-name' }, axis)));
  };
  const show = (i) => parts.forEach((part) => part.show(i));
  return { node, side, build, show, ticks: () => ticks };
}

// The strip of `names` below the noised frames; `choose(i)` is called for a level chosen by hand; `axis` names the slider.
function filmStrip({ names, shape }, choose, axis = 'step_reverse') {
  const kinds = ['noised', ...names];
  const id = `df-${Math.random().toString(36).slice(2, 8)}`;
  const slider = make('input', { type: 'range', min: 0, step: 1, 'aria-label': axis, title: axis, ...NO_SHORTCUTS });
  const list = { class: 'df-strip', role: 'listbox', tabindex: 0, 'aria-label': 'Film strip' };
  const strip = make('div', { ...list, 'aria-orientation': 'horizontal', ...NO_SHORTCUTS });
  const numbers = panels(axis);
  const scroller = make('div', { class: 'df-film' }, slider, strip, numbers.node);
  const meaning = 'Standard deviation of the noise, where the image keeps its own scale in [-1, 1]';
  const titles = make('div', { class: 'df-titles', 'aria-hidden': 'true' },
    ...kinds.map((name) => make('span', { title: name }, name)),
    make('span', { class: 'df-axis-name', title: axis }, axis),
    make('span', { class: 'df-axis-name', title: meaning }, 'σ'));
  const side = make('div', { class: 'df-side' }, titles, numbers.side);
  const node = make('div', { class: 'df-reel' }, side, scroller);
  const columns = () => [...strip.children];
  let [at, cell] = [0, 0]; // the column shown, and the width of all

  const build = (levels) => {
    strip.replaceChildren(...levels.map((r, i) => make('div',
      { role: 'option', id: `${id}-${i}`, 'aria-label': `${axis} ${r}`, 'aria-selected': false },
      ...kinds.map(() => make('canvas')), make('span', { class: 'df-tick' }, String(r)), make('span', { class: 'df-under' }))));
    slider.max = levels.length - 1;
    at = Math.min(at, levels.length - 1);
    node.style.setProperty('--df-count', levels.length);
  };
  const fill = (shown, levels) => {
    const { sigma, snr } = shown._levels;
    columns().forEach((column, i) => {
      kinds.forEach((_, k) => {
        const [sheet, frame] = k ? [shown._frames, (k - 1) * levels.length + i] : [shown._noised, i];
        paint(column.children[k], sheet, frame, CELL_PIXELS);
      });
      column.lastChild.textContent = decimals(sigma[i]);
      column.title = `${axis} ${levels[i]}, σ ${decimals(sigma[i])}, SNR ${decibels(snr[i], sigma[i])}`;
    });
    numbers.build(shown._panels, levels);
    node.classList.toggle('df-numbered', shown._panels.length > 0);
  };
  const tick = () => { // as many numbers as there is room for, and those of the level shown
    const apart = Math.ceil(TICK / (cell || TICK));
    const ticked = (i) => i === at || (i % apart === 0 && Math.abs(i - at) >= apart);
    columns().forEach((column, i) => column.classList.toggle('df-ticked', ticked(i)));
    numbers.ticks().forEach((node, i) => node.classList.toggle('df-shown', ticked(i)));
    if (strip.children[at]) reveal(scroller, strip.children[at]);
  };
  const show = (shown, levels, i) => {
    const { sigma, snr } = shown._levels;
    const where = `${levels[i]} of ${levels[levels.length - 1]}`;
    at = i;
    slider.value = i;
    slider.setAttribute('aria-valuetext', `${where}, sigma ${decimals(sigma[i])}, SNR ${decibels(snr[i], sigma[i])}`);
    strip.querySelector('[aria-selected="true"]')?.setAttribute('aria-selected', false);
    strip.children[i].setAttribute('aria-selected', true);
    strip.setAttribute('aria-activedescendant', `${id}-${i}`);
    numbers.show(i);
    tick();
  };
  const layout = () => {
    const count = strip.children.length;
    if (!count || !scroller.clientWidth) return;
    const least = Math.round(20 * Math.sqrt(Math.max(1, shape[2] / shape[1]))); // wide pictures need more
    const most = Math.min(120, STRIP_HIGH / kinds.length, scroller.clientWidth / 3);
    cell = clamp(Math.floor((scroller.clientWidth - 4) / count), least, Math.max(least, Math.floor(most)));
    node.style.setProperty('--df-cell', `${cell}px`);
    strip.querySelectorAll('canvas').forEach((canvas) => fit(canvas, shape, cell - 2, 0.7));
    node.style.setProperty('--df-row', strip.querySelector('canvas').style.height);
    tick();
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

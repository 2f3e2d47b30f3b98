// Explorers on a page without a kernel: a host for anywidget's interface whose model is what was saved.
// A choice that needs Python is not answered here; `model.get('_static')` is true, so that the view can say so.

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== 'object') return value;
  if ('$bytes' in value) {
    return new DataView(Uint8Array.from(atob(value.$bytes), (c) => c.charCodeAt(0)).buffer);
  }
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpack(part)]));
}

function savedModel(traits) {
  const listeners = new Map();
  const tell = (event, ...values) => [...(listeners.get(event) ?? [])].forEach((f) => f(...values));
  const model = {
    get: (name) => traits[name],
    set(name, value) {
      const changes = typeof name === 'object' ? name : { [name]: value };
      const changed = Object.keys(changes).filter((key) => traits[key] !== changes[key]);
      Object.assign(traits, changes);
      changed.forEach((key) => tell(`change:${key}`, model, traits[key]));
      if (changed.length) tell('change', model);
    },
    save_changes() {},
    send() {},
    on(event, listener) { listeners.set(event, [...(listeners.get(event) ?? []), listener]); },
    off(event, listener) {
      if (event == null) listeners.clear();
      else listeners.set(event, listener ? (listeners.get(event) ?? []).filter((f) => f !== listener) : []);
    },
    widget_manager: { get_model: () => Promise.reject(new Error('there is no kernel')) },
  };
  return model;
}

const shared = (kind, name) => {
  const node = document.querySelector(`script[data-difflow="${kind}"][data-name="${name}"]`);
  return JSON.parse(node.textContent);
};
const scripts = new Map(); // by name: the module

function load(name) {
  if (!scripts.has(name)) {
    const url = URL.createObjectURL(new Blob([shared('script', name)], { type: 'text/javascript' }));
    scripts.set(name, import(url).then(async ({ default: view }) => (typeof view === 'function' ? view() : view)));
  }
  return scripts.get(name);
}

async function mount(node) {
  const { script, style } = node.dataset;
  const traits = unpack(JSON.parse(node.querySelector('script[data-difflow="traits"]').textContent));
  const view = await load(script);
  if (!document.querySelector(`style[data-name="${style}"]`)) {
    const sheet = Object.assign(document.createElement('style'), { textContent: shared('style', style) });
    sheet.dataset.name = style;
    document.head.append(sheet);
  }
  const model = savedModel(traits), el = document.createElement('div'), { signal } = new AbortController();
  const experimental = { invoke: () => Promise.reject(new Error('there is no kernel')) };
  await view.initialize?.({ model, signal, experimental });
  node.querySelector('img').hidden = true;
  node.append(el);
  await view.render({ model, el, signal, experimental });
  node.dataset.live = 'true';
}

function mountAll() {
  for (const node of document.querySelectorAll('.difflow-explorer')) {
    mount(node).catch((error) => {
      node.querySelector('img').hidden = false; // the picture stays where the script fails
      console.error(error);
    });
  }
}

if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', mountAll);
else mountAll();

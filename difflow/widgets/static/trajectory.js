// The view of the trajectory explorer: one noised image a time, and under each the numbers that are read from its code.

const PROBABILITY = 'The likeliest class by this read-out of the code, and its probability';

// The clean and the noised image; and the answer of each read-out.
function trajectoryPictures({ shape, times }) {
  const panels = ['clean', 'noised'].map((name) => figure(name));
  const answers = make('dl', { class: 'df-readout df-answers' });
  const node = make('div', { class: 'df-stage' }, ...panels.map((panel) => panel.node));
  const show = (shown, i) => {
    const [clean, noised] = panels;
    paint(clean.canvas, shown._clean, 0);
    paint(noised.canvas, shown._noised, i);
    put(clean.note, shown._truth);
    const { sigma, snr } = shown._levels;
    const where = `t = ${decimals(times[i])}, σ = ${decimals(sigma[i])}, SNR ${decibels(snr[i], sigma[i])}`;
    put(noised.note, where, `${where}: time 0..1 on the trajectory; standard deviation of the noise`);
    const rows = [['this time alone', shown._single[i] ?? ''], ...shown._answers];
    answers.replaceChildren(...rows.map(([name, text]) => make('div', { title: `${name}: ${text}\n${PROBABILITY}` },
      make('dt', {}, name), make('dd', {}, text))));
  };
  return { node, answers, show, layout: (width) => lay(node, panels, shape, width) };
}

function renderTrajectory(context) {
  return mount(context, (host) => {
    const { model } = host;
    const offered = model.get('_choices');
    const { times, factors } = offered;
    const current = () => {
      const gaps = times.map((t) => Math.abs(t - model.get('t')));
      return gaps.indexOf(Math.min(...gaps));
    };
    const show = () => {
      if (!host.shown()) return;
      pictures.show(host.shown(), current());
      strip.show(host.shown(), times, current());
    };
    const choose = (i) => {
      host.scrub({ t: times[i] });
      show();
    };
    const play = player((move) => {
      const next = current() + move;
      const inside = next >= 0 && next < times.length;
      if (inside) choose(next);
      return inside;
    });
    const picker = thumbnails(host);
    const settings = form(host);
    settings.select('factor', 'factor', factors.map((name, i) => [i, name]));
    const pictures = trajectoryPictures(offered);
    const strip = filmStrip({ names: [], shape: offered.shape }, (i) => { play.stop(); choose(i); }, 't');
    strip.side.prepend(play.node);
    strip.build(times);
    return {
      nodes: [picker.node, settings.node, pictures.node, pictures.answers, strip.node],
      choices: ['image', 'factor'],
      sheets: ['_thumbnails', '_clean', '_noised'],
      values: ['_shelf', '_levels', '_panels', '_truth', '_single', '_answers'],
      scrubbed: ['t'],
      show: (shown, moved) => {
        if (!moved) {
          picker.show(shown);
          strip.fill(shown, times);
          strip.layout();
        }
        show();
      },
      mark: () => { picker.mark(); settings.mark(); },
      layout: (width) => { pictures.layout(width); strip.layout(); },
      stop: play.stop,
    };
  });
}

export default { render: renderTrajectory };

// Many networks at once, and their vote.
'use strict';

const buildMany = () => {
  const go = make('button', {type: 'button', id: 'many'}, 'ask for 64 networks');
  const bar = make('progress', {max: 64, value: 0, hidden: true});
  bar.setAttribute('aria-label', 'networks that are there');
  const dots = canvasFor('the metric of each network', 'small');
  const disputed = canvasFor('where they disagree', spec.points ? 'plane' : 'tall');
  const text = make('p', {role: 'status', 'aria-live': 'polite'}, spec.manyWords);
  const more = make('p', {className: 'faint'}), row = make('div', {className: 'row'}, go, bar);
  section('Many at once, and their vote', 'wide', row, text, dots, more, disputed);
  dots.hidden = disputed.hidden = true;
  panels.dots = new Panel(dots, (ctx, w, h) => {
    if (!many) return;
    const values = many.votes[0].each.map(v => v[metric.name]), kind = spec.points ? '' : 'test ';
    const title = `${kind}${metric.name} (${metric.unit}) of each`;
    drawDots(ctx, w, h, {values, asked: many.state.prompt, title});
  });
  panels.disputed = new Panel(disputed, drawDisputed);
  many = null;
  Object.assign(buildMany, {go, bar, text, more, dots, disputed});
  go.addEventListener('click', askMany);
};
let manyAsked = 0;                          // 0: what still comes is not wanted
const askMany = () => {
  const {go, bar, text} = buildMany;
  if (tooFew() && !go.dataset.busy) return;
  if (go.dataset.busy) { worker.postMessage({kind: 'stop'}); endMany('stopped'); return; }
  go.dataset.busy = 'yes';
  go.textContent = 'stop';
  Object.assign(bar, {hidden: false, value: 0});
  text.textContent = 'sampling …';
  worker.postMessage({kind: 'many', id: manyAsked = ++questions, state, n: 64});
};
const endMany = words => {
  const {go, bar, text} = buildMany;
  delete go.dataset.busy;
  manyAsked = 0;
  go.textContent = 'ask for 64 networks';
  bar.hidden = true;
  text.textContent = words;
};
const BELOW = spec.points ? 'Below: their mean probability at each place, faint where they disagree.' :
  'Below: the pictures on which most networks disagree with the vote; the bar says how many.';
const percent = v => `${v.toFixed(1)} %`;
const showMany = () => {
  const [vote, second] = many.votes, things = spec.points ? 'points' : 'test pictures';
  const errors = vote.each.map(v => v.error), mean = values => values.reduce((a, b) => a + b)/values.length;
  const got = mean(vote.each.map(v => v[metric.name]));
  const best = Math.min(...errors);
  const more = second ? `, and ${percent(second.error)} of a second test set` : '';
  endMany(`Asked for ${short(many.state.prompt)}, got ${short(got)} ${metric.unit} on average. One by one ` +
          `${percent(mean(errors))} of the ${things} are wrong (the best: ${percent(best)}), ` +
          `together ${percent(vote.error)}${more}.`);
  buildMany.more.textContent = `Made in ${many.seconds.toFixed(1)} s. ${BELOW}`;
  buildMany.dots.hidden = buildMany.disputed.hidden = false;
  panels.dots.refresh(); panels.disputed.refresh();
};
const drawDisputed = (ctx, w, h) => {
  if (!many) return;
  const {plane, state: {points}} = many;
  if (plane) { drawPlane(ctx, w, h, {name: 'crowd', plane, points}); return; }
  const {said, doubt, labels} = many.votes[0], order = [...doubt.keys()].sort((a, b) => doubt[b] - doubt[a]);
  const pictures = order.slice(0, w > 600 ? 24 : 12).map(i => {
    const wrong = said[i] !== labels[i], text = classNames[said[i]];
    return {pixels: pixelsOf(i), text, wrong, share: doubt[i]};
  });
  const {image, brightest: most} = spec.task;
  drawPictures(ctx, w, h, {name: 'disputed', pictures, image, most, letters});
};


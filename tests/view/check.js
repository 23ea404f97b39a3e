// Opens the page of `lockstep view` in Chromium and uses it as a person would.
//
//   node check.js LOCKSTEP ARTIFACT.lks..         checks each, and the first two together; screenshots go to target/view/
//   node check.js LOCKSTEP --measure ARTIFACT..   prints size, time to open and frames per second while panning
//
// What the page shows is compared with `report --json` and `inspect --json` of the same artifact.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const shots = join(root, 'target/view');
const [lockstep, ...rest] = process.argv.slice(2);
const measuring = rest[0] === '--measure';
const artifacts = measuring ? rest.slice(1) : rest;

const json = (...args) => JSON.parse(execFileSync(lockstep, [...args, '--json'], { maxBuffer: 1 << 30 }));
const plain = (text) => text.replace(/[\s\u202f]/g, '');

/** A browser page with the view of an artifact, which must not say anything on its console. */
async function open(browser, file, options) {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, colorScheme: 'light', ...options });
  page.problems = [];
  page.on('console', (m) => { if (m.type() === 'error' || m.type() === 'warning') page.problems.push(m.text()); });
  page.on('pageerror', (e) => page.problems.push(e.message));
  page.on('request', (r) => { if (!/^(file|data|blob):/.test(r.url())) page.problems.push(`asks for ${r.url()}`); });
  const begun = Date.now();
  await page.goto(pathToFileURL(file).href);
  await page.waitForFunction(() => document.documentElement.dataset.ready === 'true', null, { timeout: 120000 });
  page.opened = Date.now() - begun;
  return page;
}

/** The page stands still: no movement under way, the last change drawn. */
async function still(page) {
  await page.waitForTimeout(260);
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

const figure = async (page, name) => plain(await page.locator(`[data-figure=${name}]`).evaluate((n) => n.firstChild.textContent));
const fact = (page, name) => page.locator(`#fact-${name}`).innerText();

/** Clicks the run with this number where the timeline draws it. */
async function clickRun(page, run) {
  const at = await page.evaluate((r) => {
    const b = lockstepView.box(r);
    const c = document.getElementById('timeline').getBoundingClientRect();
    return b && { x: c.x + b.x + Math.min(b.w / 2, 3), y: c.y + b.y + b.h / 2 };
  }, run);
  assert(at, `run ${run} has a row`);
  await page.mouse.click(at.x, at.y);
}

async function check(browser, artifact) {
  const name = basename(artifact, '.lks');
  const file = join(shots, `${name}.html`);
  const said = json('view', artifact, '-o', file);
  assert.equal(said.bytes, statSync(file).size);
  const { report } = json('report', artifact);
  const one = report.entries[0];
  const runs = json('inspect', artifact, '--stage', 'sched').result.runs;
  const page = await open(browser, file);
  const shot = (what) => page.screenshot({ path: join(shots, `${name}-${what}.png`) });
  await still(page);
  await shot('whole');

  // Figures are those of the report.
  assert.equal(await figure(page, 'makespan'), String(one.makespan_cycles));
  assert.equal(await figure(page, 'bound'), String(one.bound_cycles));
  assert.equal(await figure(page, 'roofline'), String(one.roofline_cycles));
  assert.equal(await figure(page, 'runs'), String(one.runs));
  assert.equal(await figure(page, 'chains'), String(one.chains));
  assert.equal(await figure(page, 'over'), one.makespan_over_bound.toFixed(2));
  assert.equal(await figure(page, 'energy'), one.energy_microjoules.total.toFixed(1));
  const shares = (await page.locator('#utilisation b').allInnerTexts()).map(plain);
  const expected = ['mem', 'mxm_load', 'mxm_mul', 'vxm', 'sxm', 'c2c'].map((u) => `${(100 * one.utilisation[u]).toFixed(1)}%`);
  assert.deepEqual(shares, expected);

  // Every run says what the disassembler says.
  const texts = await page.evaluate(() => {
    const s = lockstepView.state.schedule;
    return Array.from({ length: s.n }, (_, r) => `${s.queue(r)} @${s.start[r]} ${s.text(r)} h${s.chain[r]} ${s.op(r)}`);
  });
  assert.equal(texts.length, runs.length);
  runs.forEach((r, i) => assert.equal(texts[i], `${r.queue} @${r.cycle} ${r.text} h${r.chain} ${r.op}`));

  // Search for the node of a product, take the result, and click one of its products.
  const chosen = runs.find((r) => r.text.startsWith('mul') && r.cycle > one.makespan_cycles / 3 && r.nodes.length);
  assert(chosen, 'there is a product');
  const node = chosen.nodes[0];
  await page.keyboard.press('/');
  await page.keyboard.type(node);
  await page.locator('#found li').filter({ hasText: 'model node' }).first().click();
  await still(page);
  const window = await page.evaluate(() => [lockstepView.state.scale.t0, lockstepView.state.scale.t1]);
  assert(window[1] - window[0] < one.makespan_cycles, 'the search zooms in');
  assert(window[0] <= chosen.cycle && chosen.cycle <= window[1], 'to where the node runs');
  assert.match(await fact(page, 'model-node'), new RegExp(node.slice(-20).replace(/[^\w]/g, '.')));
  await shot('search');
  const number = runs.indexOf(chosen);
  await page.evaluate((r) => {
    const { state } = lockstepView;
    state.timeline.show(state.rows.reveal(state.schedule.tracks[state.schedule.track[r]]));
    state.scale.set(state.schedule.start[r] - 30, state.schedule.start[r] + 90);
  }, number);
  await still(page);
  await clickRun(page, number);
  await still(page);
  assert.equal(await page.locator('#instruction').innerText(), chosen.text);
  assert.equal(await fact(page, 'queue'), chosen.queue);
  assert.equal(await fact(page, 'ir-operation'), chosen.op);
  assert((await fact(page, 'model-node')).includes(node));
  assert((await fact(page, 'chain')).startsWith(`h${chosen.chain},`));
  assert.equal(await page.locator('#producers [data-via=tile]').count() > 0, true, 'a product has a tile');
  await shot('run');

  // Follow the first producer with the key, and its consumer back.
  await page.keyboard.press('[');
  await still(page);
  const producer = await page.evaluate(() => lockstepView.state.selected);
  assert.notEqual(producer, number);
  assert(runs[producer].cycle <= chosen.cycle, 'a producer issues before');
  const back = await page.locator(`#consumers [data-run="${number}"]`).count();
  assert.equal(back, 1, 'the producer names the run among its consumers');

  // Over a link: from the receiving run to the sending one on the other chip, and back by a button.
  const recv = runs.findIndex((r) => r.text.startsWith('recv'));
  if (report.chips > 1) {
    assert(recv >= 0, 'something is received');
    await page.evaluate((r) => lockstepView.state.select(r, true), recv);
    await still(page);
    await page.locator('#producers [data-via=link]').first().click();
    await still(page);
    const send = await page.evaluate(() => lockstepView.state.selected);
    assert(runs[send].text.startsWith('send') && runs[send].chip !== runs[recv].chip, 'the sender is on another chip');
    assert.equal(await page.locator('#instruction').innerText(), runs[send].text);
    await shot('link');
    await page.locator(`#consumers [data-run="${recv}"]`).click();
    assert.equal(await page.locator('#instruction').innerText(), runs[recv].text);

    // One chip alone, and all again.
    await page.selectOption('#chip', '1');
    await still(page);
    assert.deepEqual(await page.evaluate(() => [...new Set(lockstepView.state.rows.list.map((r) => r.chip))]), [1]);
    await page.locator('#tab-sram').click();
    await still(page);
    assert.match(await page.locator('#lower-note').innerText(), /chip 1: words up to/);
    await shot('sram');
    await page.selectOption('#chip', '-1');
  }

  // Links, stages, and the critical path step by step.
  await page.locator('#tab-links').click();
  await still(page);
  const words = one.link_words.reduce((a, l) => a + l.words, 0);
  const note = await page.locator('#lower-note').innerText();
  if (words) assert(plain(note).includes(String(words)), `${note} has ${words}`);
  await page.locator('#tab-bands').click();
  await page.locator('#tab-path').click();
  assert.equal(await page.locator('#steps li').count(), one.critical_path.length);
  await page.locator('#step-on').click();
  await page.locator('#step-on').click();
  await still(page);
  assert.equal(await page.locator('#step-at').innerText(), `step 2 of ${one.critical_path.length}`);
  const stepped = await page.evaluate(() => lockstepView.state.selected);
  assert.equal(runs[stepped].op, one.critical_path[1].op);
  assert.equal(runs[stepped].cycle, one.critical_path[1].start);
  await shot('path');

  // A cycle, colours, theme, help, and away with all of it.
  await page.keyboard.press('/');
  await page.keyboard.type('@100');
  await page.keyboard.press('Enter');
  await still(page);
  const [t0, t1] = await page.evaluate(() => [lockstepView.state.scale.t0, lockstepView.state.scale.t1]);
  assert(t0 < 100 && t1 > 100 && t1 - t0 < 200, `${t0}..${t1} is about cycle 100`);
  await page.keyboard.press('l');
  assert.equal(await page.locator('#colour [data-by=layer]').getAttribute('aria-checked'), 'true');
  await page.keyboard.press('t');
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
  await page.keyboard.press('f');
  await still(page);
  await shot('dark');
  await page.keyboard.press('?');
  assert(await page.locator('#help').isVisible());
  await page.keyboard.press('Escape');

  // The wheel zooms at the pointer, a drag pans.
  const box = await page.locator('#timeline').boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + 80);
  const before = await page.evaluate(() => lockstepView.state.scale.per);
  await page.mouse.wheel(0, -600);
  await still(page);
  const after = await page.evaluate(() => [lockstepView.state.scale.per, lockstepView.state.scale.t0]);
  assert(after[0] < before, 'the wheel zooms in');
  await page.mouse.down();
  await page.mouse.move(box.x + box.width / 2 - 200, box.y + 80, { steps: 4 });
  await page.mouse.up();
  await still(page);
  assert(await page.evaluate(() => lockstepView.state.scale.t0) > after[1], 'a drag pans');
  assert.deepEqual(page.problems, []);
  await page.close();

  // For reading on a phone: nothing is wider than the screen.
  const phone = await open(browser, file, { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
  await still(phone);
  assert(await phone.evaluate(() => document.documentElement.scrollWidth) <= 390, 'the page fits a phone');
  await phone.screenshot({ path: join(shots, `${name}-phone.png`), fullPage: true });

  // Two fingers that part zoom in about the point between them.
  const touched = await phone.locator('#timeline').boundingBox();
  const devtools = await phone.context().newCDPSession(phone);
  const fingers = (apart) => [-apart, apart].map((dx, id) => ({ x: touched.x + touched.width * 0.6 + dx, y: touched.y + 60, id }));
  const span = () => phone.evaluate(() => lockstepView.state.scale.t1 - lockstepView.state.scale.t0);
  const wide = await span();
  await devtools.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: fingers(20) });
  for (const apart of [30, 40, 60]) await devtools.send('Input.dispatchTouchEvent', { type: 'touchMove', touchPoints: fingers(apart) });
  await devtools.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
  await still(phone);
  const narrow = await span();
  assert(narrow < wide * 0.5 && narrow > wide * 0.2, `fingers from 40 to 120 pixels apart: ${wide} cycles became ${narrow}`);

  // On paper: without the tools, dark or not.
  await phone.emulateMedia({ media: 'print', colorScheme: 'dark' });
  assert(!(await phone.locator('.tools').isVisible()), 'paper has no tools');
  assert.equal(await phone.evaluate(() => getComputedStyle(document.documentElement).getPropertyValue('--bg').trim()), '#fff');
  assert.deepEqual(phone.problems, []);
  await phone.close();
  console.log(`${name}: ok, ${runs.length} instructions, page of ${said.bytes} bytes`);
}

/** Two artifacts in one page: the rows of both, each with its own figures, runs and data flow. */
async function pair(browser, a, b) {
  const file = join(shots, 'pair.html');
  const said = json('view', a, b, '-o', file);
  const page = await open(browser, file);
  await still(page);
  await page.screenshot({ path: join(shots, 'pair-whole.png') });
  const reports = [a, b].map((x) => json('report', x).report.entries[0]);
  const shown = async (name) => plain(await page.locator(`[data-figure=${name}]`).innerText());
  assert.equal(await shown('makespan'), `${reports.map((r) => r.makespan_cycles).join('/')}cycles`);
  assert.equal(await shown('runs'), reports.map((r) => r.runs).join('/'));
  assert.equal(await shown('chains'), reports.map((r) => r.chains).join('/'));
  const runs = [a, b].flatMap((x, i) => json('inspect', x, '--stage', 'sched').result.runs.map((r) => ({ ...r, part: 'AB'[i] })));
  const told = await page.evaluate(() => {
    const s = lockstepView.state.schedule;
    return Array.from({ length: s.n }, (_, r) => ({ line: `${s.queue(r)} @${s.start[r]} ${s.text(r)} ${s.op(r)}`, nodes: s.nodes(r), chain: s.chain[r] - s.part(s.chip[r]).firstChain, near: [...s.producers(r), ...s.consumers(r)].every((e) => s.part(s.chip[e.run]) === s.part(s.chip[r])) }));
  });
  assert.equal(told.length, runs.length);
  runs.forEach((r, i) => {
    assert.equal(told[i].line, `${r.part}.${r.queue} @${r.cycle} ${r.text} ${r.op}`);
    assert.deepEqual(told[i].nodes, r.nodes);
    assert.equal(told[i].chain, r.chain);
    assert(told[i].near, 'no run takes anything from the other artifact');
  });
  const steps = await page.evaluate(() => lockstepView.state.schedule.path.map((step) => [step.part, step.run]));
  const expected = reports.flatMap((r, i) => r.critical_path.map((step) => [i, step]));
  assert.equal(steps.length, expected.length);
  steps.forEach(([part, run], i) => {
    assert.equal(part, expected[i][0]);
    assert.equal(runs[run].part, 'AB'[part]);
    assert.equal(runs[run].op, expected[i][1].op);
  });
  assert.deepEqual(page.problems, []);
  await page.close();
  console.log(`${basename(a)} and ${basename(b)}: ok, page of ${said.bytes} bytes`);
}

/** Frames per second while the timeline is panned in every frame (the whole run: zoomed), for a second and a half in each of several views. */
async function measure(browser, artifact) {
  const name = basename(artifact, '.lks');
  const file = join(shots, `${name}.html`);
  const said = json('view', artifact, '-o', file);
  const page = await open(browser, file);
  const rows = [];
  const parts = { 'whole run': [0, 1], 'a tenth': [0.4, 0.5], 'a hundredth': [0.4, 0.41], 'a thousandth': [0.4, 0.401] };
  for (const [opened, by, tab] of [[false, 'unit', 'use'], [true, 'layer', 'use'], [true, 'layer', 'sram']]) {
    await page.evaluate(([all, colour, lower]) => {
      const { state } = lockstepView;
      if (all !== state.rows.list.some((r) => r.type === 'track')) state.openAll();
      state.colour(colour);
      state.lower(lower);
    }, [opened, by, tab]);
    for (const [what, [a, b]] of Object.entries(parts)) {
      const took = await page.evaluate(async ([from, to]) => {
        const { state } = lockstepView;
        const frame = () => new Promise((done) => requestAnimationFrame(done));
        const m = state.schedule.makespan;
        state.scale.set(m * from, m * to);
        for (let i = 0; i < 3; i++) await frame();
        const [begun, drawn] = [performance.now(), state.frames];
        const gaps = [];
        for (let last = begun, i = 0; last - begun < 1500; i++) {
          const forth = Math.floor(i / 40) % 2 === 0;
          if (to - from < 1) state.scale.pan(forth ? 15 : -15);
          else state.scale.zoom(forth ? 0.99 : 1 / 0.99, 500);
          await frame();
          const now = performance.now();
          gaps.push(now - last);
          last = now;
        }
        const fps = ((state.frames - drawn) * 1000) / (performance.now() - begun);
        gaps.sort((x, y) => x - y);
        return { fps, worst: gaps[Math.floor(gaps.length * 0.99)] };
      }, [a, b]);
      rows.push({ view: `${what}, ${opened ? 'every queue' : 'kinds of units'}${tab === 'sram' ? ', SRAM' : ''}`, fps: Math.round(took.fps), 'ms, slowest 1 % of frames': Math.round(took.worst) });
    }
  }
  console.log(`${name}: ${said.artifacts[0].entries.reduce((n, e) => n + e.runs, 0)} instructions, ${(said.bytes / 1e6).toFixed(2)} MB, opens in ${page.opened} ms`);
  console.table(rows);
  assert.deepEqual(page.problems, []);
  await page.close();
}

if (!lockstep || !artifacts.length) throw new Error('usage: node check.js LOCKSTEP [--measure] ARTIFACT.lks..');
mkdirSync(shots, { recursive: true });
const executablePath = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((p) => p && existsSync(p));
if (!executablePath) throw new Error('no Chromium found; install it, or name it in CHROMIUM');
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
try {
  for (const artifact of artifacts) await (measuring ? measure : check)(browser, resolve(artifact));
  if (!measuring && artifacts.length > 1) await pair(browser, resolve(artifacts[0]), resolve(artifacts[1]));
} finally {
  await browser.close();
}

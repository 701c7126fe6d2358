"use strict";
// The page asks for a snapshot, shows it, and asks again. Words from the daemon become text nodes only, never markup.
const REFRESH_MS = 200; // five pictures a second: live to the eye, 3 % of a core on the daemon's side
const SILENT_MS = 2000; // without an answer for so long, what is shown is no longer true
const REFUSED_MS = 60000; // between attempts without a valid token: more often, and the daemon would hear nobody from here
const SURE_MS = 4000; // a second tap within this begins a new exam
const MINUTE = 60;

// What a person can do about each of decision.REASONS.
const ADVICE = {
  "no signal": "check the cable and that the scanner is on",
  "frozen": "unfreeze the scanner to go on",
  "doppler": "switch colour off to go on",
  "dual view": "show one picture to go on",
  "menu": "no ultrasound picture on the screen",
  "no model answer": "the model fails; see Device",
  "window over the picture": "close the window or wait until it is gone",
  "not the nuchal plane": "show the fetus in mid-sagittal view",
  "unfamiliar image": "this looks like no picture it was made for",
};

const WITH_PICTURE = ["OK", "FROZEN", "DOPPLER"]; // what the screen shows then is a picture, whatever its view
const NARROW = 520; // pixels; a chart that is not as wide has its legend under the times

const at = id => document.getElementById(id);
const fixed = (x, n) => x === null || x === undefined ? "–" : x.toFixed(n);
const make = (kind, text, name) => { const e = document.createElement(kind); if (text) e.textContent = text; if (name) e.className = name; return e; };
const draw = (kind, attributes, text) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (text) e.textContent = text;
  return e;
};
const two = n => String(n).padStart(2, "0");
function time(iso) {
  const t = new Date(iso), clock = two(t.getHours()) + ":" + two(t.getMinutes()) + ":" + two(t.getSeconds());
  const day = [t.getFullYear(), two(t.getMonth() + 1), two(t.getDate())].join("\u2011"); // hyphens at which no line breaks
  return t.toDateString() === new Date().toDateString() ? clock : day + " " + clock;
}

let heard = 0, snapshot = null, pictureAsked = false, sheetId = null;
const drawn = {}; // what each list was last made from

function lost(why) {
  document.body.className = "stopped" + dim();
  at("words").textContent = "NOT WATCHING"; at("why").textContent = why; at("why").className = "";
  once("problems", [], () => at("problems").replaceChildren());
  hidePicture("no picture");
}

function show(s) {
  heard = Date.now(); snapshot = s;
  const v = s.verdict;
  document.body.className = s.state + dim();
  at("words").textContent = s.words;
  const also = s.state === "flagged" && v.reasons.length > 0, why = v ? reasons(v.reasons, s.words) : "";
  at("why").textContent = s.state === "stopped" ? "the daemon has stopped looking" : also ? "NOW NOT ASSESSING: " + why :
    s.state === "flagged" ? "exam " + v.exam_id + "; the flag stays until the next exam" : why;
  at("why").className = also ? "also" : "";
  once("problems", s.health.problems, all => at("problems").replaceChildren(...all.map(words => make("div", words))));
  at("same").hidden = !v || !v.question;
  showPicture(s, v);
  if (v) { showFigures(v); showChart(s, v); }
  once("events", s.events, showEvents); once("exams", s.exams || [], showExams);
  if (!at("device").hidden) showDevice(s);
}
// One reason with what to do about it, or all of them; what the words above say already is left out.
function reasons(all, words) {
  if (all.length !== 1) return all.join(", ");
  return all[0].toUpperCase() === words ? ADVICE[all[0]] : all[0] + (ADVICE[all[0]] ? ": " + ADVICE[all[0]] : "");
}
function once(name, content, make) {
  const now = JSON.stringify(content);
  if (drawn[name] !== now) { drawn[name] = now; make(content || []); }
}

function hidePicture(words) { at("picture").replaceChildren(); at("fan").setAttribute("points", ""); at("nopicture").textContent = words; at("nopicture").hidden = false; at("age").textContent = ""; }
function showPicture(s, v) {
  if (!s.outline) { hidePicture(!v ? "no picture" : WITH_PICTURE.includes(v.signal) ? "finding the edge of the picture" : "no picture: " + v.reasons[0]); return; }
  at("fan").setAttribute("points", s.outline.map(p => p.join(",")).join(" "));
  const age = s.health.frame_age_s;
  at("age").textContent = v && v.signal === "FROZEN" ? "FROZEN" : age !== null && age < 1 ? "LIVE" : fixed(age, 0) + " s old";
  if (pictureAsked) return; // a slow link shows fewer, never older ones in a queue
  pictureAsked = true;
  const next = new Image();
  next.alt = "the picture inside the fan";
  next.onload = () => { pictureAsked = false; if (snapshot && snapshot.outline) { at("picture").replaceChildren(next); at("nopicture").hidden = true; } };
  next.onerror = () => { pictureAsked = false; };
  next.src = "live.jpg?" + heard;
}

function showFigures(v) {
  at("exam").textContent = v.exam_id;
  at("score").textContent = v.assessable ? fixed(v.hygroma, 2) : "–";
  at("evidence").textContent = fixed(v.evidence, 1);
  at("needed").textContent = "evidence; flag at " + fixed(v.threshold, 1);
}

// Evidence as a curve, scores (0 to 1 over the same height) as dots, and below whether it could assess: green, or amber.
function showChart(s, v) {
  const width = at("chart").clientWidth, top = 6, floor = 96, band = 102, left = 8, right = width - 8;
  const most = Math.max(1.4 * v.threshold, ...s.history.map(p => p[1]));
  const x = ago => right - (right - left) * ago / MINUTE, y = e => floor - (floor - top) * e / most;
  const points = s.history.filter(p => p[0] <= MINUTE);
  const line = points.map(p => x(p[0]).toFixed(1) + "," + y(p[1]).toFixed(1));
  at("line").setAttribute("points", line.join(" "));
  at("area").setAttribute("d", points.length ? "M" + x(points[0][0]) + "," + floor + "L" + line.join("L") + "L" + x(points[points.length - 1][0]) + "," + floor + "Z" : "");
  at("dots").replaceChildren(...points.filter(p => p[2] !== null).map(p => draw("circle", {cx: x(p[0]), cy: floor - (floor - top) * p[2], r: 2.6})));
  const step = (right - left) / MINUTE / 2 + 1;
  at("strip").replaceChildren(...points.map(p => draw("rect", {x: x(p[0]), y: band, width: Math.min(step, right - x(p[0]) + 1), height: 10, class: p[2] === null ? "cannot" : "can"})));
  const limit = y(v.threshold);
  at("grid").replaceChildren(
    ...[0, 15, 30, 45].map(t => draw("line", {x1: x(t), x2: x(t), y1: top, y2: floor, class: "tick"})),
    draw("line", {x1: left, x2: right, y1: limit, y2: limit, class: "limit"}), draw("text", {x: left + 2, y: limit - 5}, "flag"),
    draw("text", {x: left, y: 131}, "1 minute ago"), draw("text", {x: right, y: 131, "text-anchor": "end"}, "now"),
    draw("text", {x: width / 2, y: width < NARROW ? 152 : 131, "text-anchor": "middle"}, "– evidence   • score   ▬ assessing?"));
}

function showEvents(events) {
  const waiting = events.filter(e => e.review === "open").length;
  at("open").textContent = waiting || "";
  at("events").replaceChildren(...events.map(e => {
    const row = make("button", "", "row"), picture = new Image(), words = make("div");
    picture.src = still(e); picture.alt = "evidence of flag " + e.id;
    words.append(make("b", "Exam " + e.exam_id), make("small", time(e.t_wall)), make("small", "score " + fixed(e.hygroma, 2)));
    if (e.boundary) words.append(make("small", "WHOSE? " + e.boundary));
    if (e.overrides) words.append(make("small", "decision overridden"));
    if (e.clock && e.clock !== "synchronised") words.append(make("small", "clock " + e.clock));
    row.append(picture, words, review(e));
    row.onclick = () => openSheet(e.id);
    return row;
  }));
  if (!events.length) at("events").replaceChildren(make("div", "no flag so far", "empty"));
  if (sheetId !== null) fillSheet();
}
function review(e) {
  return make("span", e.review === "open" ? "REVIEW" : e.review === "confirmed" ? "confirmed" : "dismissed", "tag " + e.review);
}
function showExams(exams) {
  at("exams").replaceChildren(...exams.map(e => {
    const row = make("div", "", "row"), words = make("div");
    words.append(make("b", "Exam " + e.exam_id), make("small", "from " + time(e.started_wall)));
    if (e.boundary) words.append(make("small", "WHOSE? " + e.boundary));
    row.append(words, make("span", e.assessable_frames + " assessed" + (e.best_hygroma === null ? "" : ", best " + fixed(e.best_hygroma, 2))),
      make("span", e.flagged ? "FLAGGED" : "no flag", "tag " + (e.flagged ? "flag" : "none")));
    return row;
  }));
  if (!exams.length) at("exams").replaceChildren(make("div", "no exam so far", "empty"));
}

function bundle(b) {
  if (!b) return "";
  return (b.signed_by === "hygroma" ? "shipped" : b.signed_by ? "signed by " + b.signed_by : "UNSIGNED") +
    (b.allow_unsigned ? ", unsigned bundles allowed" : "") + (b.previous ? ", before it " + b.previous : "") + (b.on_trial ? ", on trial" : "");
}
function showDevice(s) {
  const f = s.feed, took = s.latency_ms.verdict, age = s.health.frame_age_s;
  const facts = [
    ...s.health.problems.map(words => ["Problem", words]),
    ["Source", s.source + (f.format ? ", " + f.format : "")],
    ["Newest frame", age === null ? "none yet" : fixed(age, 1) + " s ago"],
    ["Frames", f.read + " read, " + f.dropped + " dropped, " + f.missed + " missed, " + f.stale + " stale, " + s.duplicates + " repeats"],
    ["Trouble", f.decode_errors + " damaged, " + f.restamped + " restamped, " + f.stalls + " stalls, " + f.reconnects + " reconnections, " + f.format_changes + " changes of format"],
    ["Errors", Object.entries(s.errors).map(p => p[0] + " " + p[1]).join(", ") || "none"],
    ["Verdict", took ? "half within " + fixed(took.p50, 0) + " ms, 99 % within " + fixed(took.p99, 0) + " ms" : "–"],
    ["Model", s.bundle + (s.bundle_state ? ", " + bundle(s.bundle_state) : "")],
    ["Runs on", s.engine],
  ];
  once("device", facts, () => at("device").replaceChildren(facts.reduce((dl, [name, value]) => { dl.append(make("dt", name), make("dd", value)); return dl; }, make("dl"))));
}

// -- one flag, full screen
function openSheet(id) { sheetId = id; fillSheet(); if (!at("sheet").open) at("sheet").showModal(); }
function fillSheet() {
  const e = snapshot && snapshot.events.find(found => found.id === sheetId);
  if (!e) { at("sheet").close(); return; }
  if (at("shown").dataset.still !== still(e)) { at("shown").dataset.still = still(e); showStill(e); }
  at("told").textContent = e.review === "open" ? "Not reviewed yet. Exam " + e.exam_id + ", " + time(e.t_wall) + ", score " + fixed(e.hygroma, 2) + (e.boundary ? ". WHOSE? " + e.boundary : "") :
    (e.review === "confirmed" ? "Confirmed" : "Dismissed") + " by " + e.reviewed_by;
  at("confirm").hidden = at("dismiss").hidden = at("by").hidden = e.review !== "open";
  at("reopen").hidden = e.review === "open";
  at("clip").hidden = !e.clip_path;
}
// A picture that was withheld at first comes under the same number: with its hash a browser sees that it is another.
function still(e) { return "events/" + e.id + ".png?" + e.image_sha256.slice(0, 8); }
function picture(src, alt) { const i = new Image(); i.src = src; i.alt = alt; at("shown").replaceChildren(i); }
function showStill(e) { at("clip").textContent = "Clip"; picture(still(e), "left the picture, right the same with the nuchal map as heat"); }
at("clip").onclick = () => {
  const e = snapshot.events.find(found => found.id === sheetId);
  if (at("clip").textContent === "Clip") { at("clip").textContent = "Still"; picture("events/" + e.id + ".webp", "the seconds around the flag"); } else showStill(e);
};
// What the daemon was told, and, "" when it took it, why it did not: a press that does nothing must not look like one that did.
async function say(path, body) {
  const sent = {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body || {})};
  let problem = "no answer from the daemon";
  try { const r = await fetch(path, sent); problem = r.ok ? "" : (await r.json()).error; } catch (error) { /* no answer, or none in JSON */ }
  refresh().catch(() => {});
  return problem;
}
async function decide(state) {
  const problem = await say("ack/" + sheetId, {review: state, by: at("by").value.trim() || "operator"});
  if (problem) at("told").textContent = "NOT RECORDED: " + problem;
}
at("confirm").onclick = () => decide("confirmed");
at("dismiss").onclick = () => decide("dismissed");
at("reopen").onclick = () => decide("open");
at("close").onclick = () => at("sheet").close();
at("sheet").onclose = () => { sheetId = null; delete at("shown").dataset.still; };

// -- buttons
let sureUntil = 0;
at("new").onclick = async () => {
  const sure = Date.now() < sureUntil;
  sureUntil = sure ? 0 : Date.now() + SURE_MS;
  askSure();
  if (sure && await say("new-exam")) at("new").textContent = "Not done: no new exam";
  setTimeout(askSure, SURE_MS + 50);
};
at("same").onclick = async () => { if (await say("same-exam")) at("same").textContent = "Not done: same patient"; else at("same").textContent = "Same patient"; };
function askSure() { const sure = Date.now() < sureUntil; at("new").className = sure ? "big sure" : "big"; at("new").textContent = sure ? "Tap again: new exam" : "New exam"; }
const dim = () => at("night").getAttribute("aria-pressed") === "true" ? " dim" : "";
at("night").onclick = () => { const on = !dim(); at("night").setAttribute("aria-pressed", on); at("night").textContent = on ? "Bright" : "Dim"; document.body.classList.toggle("dim", on); };
for (const tab of document.querySelectorAll("[role=tab]")) tab.onclick = () => {
  for (const other of document.querySelectorAll("[role=tab]")) {
    other.setAttribute("aria-selected", other === tab);
    at(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  if (snapshot) showDevice(snapshot);
};

function refresh() { // a connection that nobody answers on is given up: the page would show its last picture for ever
  const stop = new AbortController(), late = setTimeout(() => stop.abort(), SILENT_MS);
  const answer = fetch("snapshot.json", {signal: stop.signal}).then(r => { if (!r.ok) throw new Error(r.status); return r.json(); });
  return answer.finally(() => clearTimeout(late)).then(show);
}
async function turn() {
  let refused = false;
  try { await refresh(); } catch (error) {
    refused = error.message === "401";
    if (refused || Date.now() - heard > SILENT_MS) lost(refused ? "this browser is not known here: open the page with its token again" : "no answer from the daemon");
  }
  setTimeout(turn, refused ? REFUSED_MS : REFRESH_MS);
}
turn();

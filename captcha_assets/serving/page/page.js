// The page of the service: try the model, and correct it. Talks to its own service only.

const POLL_SECONDS = 5;
const AT_ONCE = 4; // images that are sent at the same time
const MOST_IMAGES = 500; // of the view "Try"; the oldest ones leave
const MOST_CHARACTERS = 10; // of a whole CAPTCHA that is cut
const QUEUE = 100; // predictions that are asked for at a time
const MOST = 1000; // of one answer
const BARS = 6;
const TRIES = 6; // of a request that is answered 429

const $ = (id) => document.getElementById(id);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const percent = (share) =>
  share > 0 && share < 0.0005 ? "< 0.1 %" : `${(share * 100).toFixed(share > 0.9995 || share === 0 ? 0 : 1)} %`;

function element(tag, attributes = {}, ...children) {
  const created = Object.assign(document.createElement(tag), attributes);
  created.append(...children);
  return created;
}

let spoken;
function say(text, { isShown = true } = {}) {
  $("said").textContent = text; // a screen reader reads it in either case
  $("said").classList.toggle("quiet", !isShown);
  clearTimeout(spoken);
  spoken = setTimeout(() => $("said").classList.add("quiet"), 4000);
}

// --- the service

class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status; // 0: the service did not answer
  }
}

let key = sessionStorage.getItem("api-key") ?? "";
let isDown = false;
let isLocked = false; // a key is needed, and the person closed the dialog
let busyRequests = 0;

async function ask(path, options = {}) {
  for (let tries = 1; ; tries += 1) {
    const used = key;
    const headers = { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      setDown(true);
      throw new Problem("the service does not answer");
    }
    setDown(false);
    if (response.ok) return response;
    if (response.status === 401) {
      if (used === key) await askForKey(used !== "");
    } else if (response.status === 429 && tries < TRIES) {
      await waitForTurn(Number(response.headers.get("Retry-After")) || 1);
    } else {
      throw new Problem(await detailOf(response), response.status);
    }
  }
}

async function detailOf(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `the service answers ${response.status}`;
  }
}

async function waitForTurn(seconds) {
  busyRequests += 1;
  showNotices();
  await pause(Math.min(seconds, 10));
  busyRequests -= 1;
  showNotices();
}

function setDown(now) {
  if (now === isDown) return;
  isDown = now;
  showNotices();
  if (!now) goOn();
}

// Do what could not be done while the service, or a model, was not there.
function goOn() {
  for (const item of allItems()) item.hasFailedToLoad = false;
  for (const item of views.try.items.filter((one) => one.isUnanswered)) predict(item);
  if (views.label.problem) lookForMore();
  saveAgain();
}

let keyGiven = null;
function askForKey(isRejected) {
  if (isLocked) throw new Problem("the service asks for an API key", 401);
  keyGiven ??= new Promise((resolve, reject) => {
    const dialog = $("key-dialog");
    if (isRejected) $("key-text").textContent = "The service does not accept this key.";
    $("key").value = "";
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      key = $("key").value.trim();
      if (/^[!-~]+$/.test(key)) dialog.close("given");
      else $("key-text").textContent = "A key has printable ASCII characters, and no space.";
    };
    dialog.onclose = () => {
      keyGiven = null;
      if (dialog.returnValue === "given") {
        sessionStorage.setItem("api-key", key);
        resolve();
      } else {
        isLocked = true;
        showNotices();
        reject(new Problem("the service asks for an API key", 401));
      }
    };
    dialog.returnValue = "";
    dialog.showModal();
  });
  return keyGiven;
}

// --- what is known of the service

let status = null;

async function updateStatus() {
  const before = status;
  try {
    status = await (await ask("v1/status")).json();
  } catch {
    return; // said by a notice
  }
  showStatus();
  showNotices();
  if (before?.log !== status.log || before?.model?.version !== status.model?.version) show();
  if (before && !before.model && status.model) goOn();
  if (before?.model && status.model && before.model.version !== status.model.version)
    say(`Another model answers now: ${status.model.version}`);
}

async function keepUpdated() {
  for (;;) {
    if (!document.hidden && !isLocked) await updateStatus();
    await pause(POLL_SECONDS);
  }
}

function showStatus() {
  const { model, images, log, pending_corrections: pending, corrections_in_batch: enough, max_body: largest } = status;
  $("model").replaceChildren(...(model ? [model.name, element("small", { textContent: model.version })] : ["none"]));
  $("pending").textContent = pending ?? (log === "off" ? "not kept" : "unknown");
  $("enough").textContent = pending !== null && pending < enough ? ` of ${enough}` : "";
  $("wanted").textContent =
    `${images.formats.map((name) => name.toUpperCase()).join(" or ")}, ${images.resizes ? "any size" : `${images.width}×${images.height} pixels or several such side by side`}, ` +
    `at most ${(largest / 2 ** 20).toFixed(largest % 2 ** 20 ? 1 : 0)} MB`;
}

function showNotices() {
  const unsaved = allItems().filter((item) => item.state === "failed");
  const said = [];
  if (isLocked) said.push(["The service asks for an API key.", "Enter the key", unlock]);
  if (isDown) said.push(["The service does not answer. Start it with: captcha-assets serve. The page continues when it answers again."]);
  else if (busyRequests) said.push(["The service is overloaded. The page tries again."]);
  if (status?.problem) said.push([`${status.model ? "" : "No model answers: "}${status.problem}`]);
  if (status?.log === "off") said.push(["Predictions are not logged here: you can try the model, and corrections cannot be kept."]);
  if (status?.log === "unavailable") said.push(["The log of predictions cannot be used now: corrections cannot be kept. The log of the service says why."]);
  if (unsaved.length) said.push([`Corrections that are not saved: ${unsaved.length} (${unsaved[0].failure}).`, "Save again", saveAgain]);
  const text = JSON.stringify(said);
  if ($("notices").dataset.said === text) return; // what is said already is not read out again
  $("notices").dataset.said = text;
  $("notices").replaceChildren(
    ...said.map(([words, call, onclick]) =>
      element("p", { className: "notice" }, element("span", { textContent: words }),
        ...(call ? [element("button", { type: "button", textContent: call, onclick })] : [])),
    ),
  );
}

function unlock() {
  isLocked = false;
  showNotices();
  updateStatus();
  if (view === "label") lookForMore();
}

// --- images

class Item {
  constructor(name, blob, prediction = null) {
    this.name = name;
    this.blob = blob; // null until it is asked for
    this.prediction = prediction;
    this.problem = null; // why there is no answer
    this.isUnanswered = false; // and whether another try may help
    this.label = prediction?.correction?.label ?? null; // what a person said
    this.state = this.label === null ? "open" : "saved"; // "saving", "failed"
    this.failure = null;
    this.saving = Promise.resolve(); // one correction after the other
    this.received = blob && URL.createObjectURL(blob);
    this.decoded = null;
    this.isLoading = { received: false, decoded: false };
    this.hasFailedToLoad = false;
    this.tile = tileOf(this);
  }

  // The image as it was sent.
  loadReceived() {
    return this.#load("received", async () => {
      const id = encodeURIComponent(this.prediction.inference_id);
      this.blob = await (await ask(`v1/predictions/${id}/image`)).blob();
      return this.blob;
    });
  }

  // The image as it was sent, and as the model sees it.
  async load() {
    await this.loadReceived();
    if (this.blob && status?.model)
      await this.#load("decoded", async () => {
        const request = { method: "POST", headers: typeOf(this.blob), body: this.blob };
        return (await ask("v1/decode", request)).blob();
      });
  }

  async #load(which, fetchImage) {
    if (this.isLoading[which] || this[which] || this.hasFailedToLoad) return;
    this.isLoading[which] = true;
    try {
      this[which] = URL.createObjectURL(await fetchImage());
    } catch {
      this.hasFailedToLoad = true; // tried again when it is selected again
    }
    this.isLoading[which] = false;
    show();
  }

  forget() {
    for (const url of [this.received, this.decoded]) if (url) URL.revokeObjectURL(url);
    seen.unobserve(this.tile);
    this.tile.remove();
  }
}

// The service looks at the bytes and says what a file is that is neither.
const typeOf = (blob) => ({ "Content-Type": blob.type === "image/jpeg" ? blob.type : "image/png" });

const views = {
  try: { items: [], index: 0 },
  label: {
    items: [],
    index: 0,
    order: "least-certain",
    isLoading: false,
    isExhausted: false, // the service knows no more
    problem: null,
  },
};
let view = "try";

const items = () => views[view].items;
const selected = () => items()[views[view].index];
const allItems = () => [...views.try.items, ...views.label.items];

// The characters of a whole CAPTCHA, where its size leaves no doubt: as high as an image of the model, and several
// times as wide. Any other file is one image.
async function charactersOf(file) {
  const model = status?.model;
  const image = await createImageBitmap(file, { imageOrientation: "none", colorSpaceConversion: "none" }).catch(() => null);
  if (!model || model.resizes || !image) return [file];
  const count = image.width / model.width;
  if (image.height !== model.height || !Number.isInteger(count) || count < 2 || count > MOST_CHARACTERS) return [file];
  return Promise.all(Array.from({ length: count }, async (_, place) => {
    const canvas = new OffscreenCanvas(model.width, model.height);
    canvas.getContext("2d").drawImage(image, -place * model.width, 0);
    const blob = await canvas.convertToBlob(); // PNG: the pixels stay as they are
    return new File([blob], `${file.name}, ${place + 1} of ${count}`, { type: blob.type });
  }));
}

async function add(given) {
  if (given.length === 0) return say("No image was found in it.");
  const files = (await Promise.all(given.map(charactersOf))).flat();
  if (view !== "try") location.hash = "#try";
  const list = views.try.items;
  const added = files.map((file) => new Item(file.name, file));
  list.unshift(...added);
  for (const old of list.splice(MOST_IMAGES)) old.forget();
  views.try.index = 0;
  openView("try");
  const waiting = [...added];
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (let item = waiting.shift(); item; item = waiting.shift()) await predict(item);
  }));
  const bad = added.filter((item) => item.problem).length;
  if (added.length > 1) say(`${added.length - bad} image${added.length - bad === 1 ? "" : "s"} answered${bad ? `, ${bad} not` : ""}.`);
  else if (added[0].problem) say(added[0].problem);
  else say(`${added[0].prediction.label}, ${percent(added[0].prediction.score)}`);
}

async function predict(item) {
  try {
    if (status && item.blob.size > status.max_body) throw new Problem("the file is too large", 413);
    const response = await ask("v1/predict", { method: "POST", headers: typeOf(item.blob), body: item.blob });
    const { predictions: [prediction], ...model } = await response.json();
    item.prediction = { ...prediction, ...model };
    item.problem = null;
    item.isUnanswered = false;
  } catch (problem) {
    item.problem = sentence(problem.message);
    item.isUnanswered = problem.status === 0 || problem.status === 503;
  }
  show();
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");

// --- corrections

const canCorrect = (item) => Boolean(item?.prediction) && status?.log !== "off";

function correct(item, label) {
  if (!canCorrect(item)) return;
  item.label = label;
  item.state = "saving";
  item.saving = item.saving.then(() => save(item, label));
  say(label === item.prediction.label ? `${label} is right` : `Corrected to ${label}`);
  if (view === "label") goToOpen();
  else show();
}

async function save(item, label) {
  const body = JSON.stringify({ inference_id: item.prediction.inference_id, label });
  let problem = null;
  try {
    await ask("v1/feedback", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  } catch (error) {
    problem = error;
  }
  if (item.label === label && item.state === "saving") {
    item.state = problem ? "failed" : "saved";
    item.failure = problem?.status === 404 ? "the service did not log this prediction" : problem?.message;
    if (problem?.status === 404) item.state = "lost"; // another try would not help
  }
  show();
  showNotices();
  if (!problem) countAgain();
}

function saveAgain() {
  for (const item of allItems().filter((one) => one.state === "failed")) {
    item.state = "saving";
    item.saving = item.saving.then(() => save(item, item.label));
  }
  show();
  showNotices();
}

let counting;
function countAgain() {
  clearTimeout(counting);
  counting = setTimeout(updateStatus, 300);
}

// --- the view "Label"

const isOpen = (item) => item.state === "open";

async function lookForMore() {
  const queue = views.label;
  if (queue.isLoading) return;
  queue.isLoading = true;
  queue.problem = null;
  show();
  const order = queue.order;
  try {
    const limit = Math.min(MOST, QUEUE + queue.items.filter(isOpen).length); // those that were skipped come again
    const { predictions } = await (await ask(`v1/predictions?order=${order}&limit=${limit}`)).json();
    const known = new Set(queue.items.map((item) => item.prediction.inference_id));
    const found = predictions.filter((one) => !known.has(one.inference_id));
    const first = queue.items.length;
    if (order === queue.order) queue.items.push(...found.map((one) => new Item(timeOf(one), null, one)));
    if (found.length) queue.index = first;
    queue.isExhausted = found.length === 0;
  } catch (problem) {
    queue.problem = sentence(problem.message);
  }
  queue.isLoading = false;
  if (order !== queue.order) return lookForMore();
  show();
}

const timeOf = (prediction) => new Date(prediction.time).toLocaleString();

function changeOrder(order) {
  const queue = views.label;
  const unsaved = queue.items.filter((item) => ["saving", "failed"].includes(item.state));
  for (const item of queue.items) if (!unsaved.includes(item)) item.forget();
  Object.assign(queue, { items: unsaved, index: 0, order, isExhausted: false });
  lookForMore();
}

// Go to the next image that nobody labelled; look for more after the last one.
function goToOpen() {
  const queue = views.label;
  const next = queue.items.findIndex((item, place) => place > queue.index && isOpen(item));
  if (next >= 0) queue.index = next;
  else lookForMore();
  show();
}

function move(step) {
  const place = views[view].index + step;
  if (place >= 0 && place < items().length) select(place);
  else if (view === "label" && step > 0) lookForMore();
}

function select(place) {
  views[view].index = place;
  selected().hasFailedToLoad = false;
  show();
  describe();
}

// Say which image is selected, to those who don't see it.
function describe() {
  say(`Image ${views[view].index + 1} of ${items().length}. ${tileText(selected())}`, { isShown: false });
}

// --- what is shown

let drawn = false;
function show() {
  if (drawn) return;
  drawn = true; // many changes, one drawing
  requestAnimationFrame(() => {
    drawn = false;
    draw();
  });
}

function draw() {
  for (const name of ["try", "label"]) {
    $(name).hidden = name !== view;
    if (name === view) $(`to-${name}`).setAttribute("aria-current", "page");
    else $(`to-${name}`).removeAttribute("aria-current");
  }
  document.body.classList.toggle("labelling", view === "label");
  document.body.classList.toggle("first", view === "try" && items().length === 0);
  drawQueue();
  const item = selected();
  $("panel").hidden = !item;
  if (item) {
    drawItem(item);
    if (item.prediction) item.load();
    if (view === "label") items()[views[view].index + 1]?.load();
  }
  drawStrip();
}

function drawQueue() {
  const queue = views.label;
  const open = queue.items.filter(isOpen).length;
  const done = queue.items.filter((item) => item.label !== null && item.state !== "lost").length;
  const nothing = queue.items.length === 0 && queue.isExhausted;
  const isOver = !nothing && queue.isExhausted && !isOpen(selected() ?? queue.items[0]);
  $("progress").max = Math.max(queue.items.length, 1);
  $("progress").value = done;
  $("progress-text").textContent = queue.items.length ? `${done} of ${queue.items.length} labelled` : "";
  let words = "";
  if (status?.log === "off") words = "Nothing is logged here, so there is nothing to label.";
  else if (queue.problem) words = queue.problem;
  else if (queue.isLoading && !queue.items.length) words = "Looking for predictions…";
  else if (nothing && queue.order === "latest") words = "Nothing has been predicted yet. Try an image, or send some to /v1/predict.";
  else if (nothing) words = "No prediction waits for a label.";
  else if (isOver) words = open ? `No other prediction waits for a label; ${open} were skipped.` : "All of these are labelled.";
  $("empty").textContent = words;
  $("empty").hidden = view !== "label" || !words;
  $("more").hidden = view !== "label" || status?.log === "off" || !(nothing || isOver || queue.problem);
}

function drawItem(item) {
  const { prediction } = item;
  setImage($("received"), item.received);
  if (!item.received) showReceived(true);
  setImage($("decoded"), item.decoded);
  $("decoded").closest("figure").hidden = !item.decoded && (item.problem !== null || item.hasFailedToLoad || !status?.model);
  $("name").textContent = item.name;
  $("problem").textContent = item.problem ?? (prediction ? "" : "…");
  $("problem").hidden = prediction !== null;
  for (const id of ["prediction", "probabilities"]) $(id).hidden = !prediction;
  $("correct").hidden = !canCorrect(item);
  $("no-correct").hidden = !prediction || canCorrect(item);
  if (!prediction) return;
  drawAnswer(item);
  drawBars(item);
  drawClasses(item);
  $("back").disabled = views[view].index === 0;
  $("next").disabled = view === "try" && views[view].index === items().length - 1;
}

// What the browser cannot show leaves a plain box, not a broken image.
function showReceived(isShown) {
  $("received").hidden = !isShown;
  $("unshown").hidden = isShown;
}

function setImage(image, url) {
  if ((image.getAttribute("src") ?? "") === (url ?? "")) return;
  if (url) image.src = url;
  else image.removeAttribute("src");
}

function drawAnswer(item) {
  const { prediction, label } = item;
  const isWrong = label !== null && label !== prediction.label;
  $("answer").classList.toggle("wrong", isWrong);
  $("predicted").textContent = prediction.label;
  $("corrected").textContent = isWrong ? label : "";
  $("predicted").parentElement.classList.toggle("long", prediction.label.length > 2);
  $("score").textContent = isWrong ? "" : percent(prediction.score); // it would look like the score of the correction
  $("answered-by").textContent = `${prediction.model_name} ${prediction.model_version}`;
  const what = isWrong ? `Corrected to ${label}.` : "Confirmed.";
  const words = {
    open: "",
    saving: "Saving…",
    saved: `${what} Another key changes it.`,
    failed: `Not saved: ${item.failure}.`,
    lost: `Not saved: ${item.failure}.`,
  };
  $("state").textContent = words[item.state];
  $("state").className = item.state === "saved" ? "kept" : item.state === "open" ? "muted" : "failed";
  if (item.state === "saving") $("state").className = "muted";
}

function drawBars(item) {
  const ranked = Object.entries(item.prediction.scores).sort((one, other) => other[1] - one[1]);
  const rows = ranked.slice(0, BARS).map(([name, share], place) => {
    const bar = element("span", { className: "bar" });
    bar.style.width = `${share * 100}%`;
    const track = element("span", { className: "track", ariaHidden: "true" }, bar);
    const row = element("li", {}, element("span", { className: "class", textContent: name }), track,
      element("span", { className: "share", textContent: percent(share) }));
    row.classList.toggle("best", place === 0 && (item.label ?? name) === name);
    row.classList.toggle("true", item.label === name);
    return row;
  });
  const rest = ranked.slice(BARS);
  if (rest.length) {
    const share = rest.reduce((sum, [, one]) => sum + one, 0);
    rows.push(element("li", { className: "rest" }, element("span", { textContent: `${rest.length} other classes` }),
      element("span", { className: "share", textContent: percent(share) })));
  }
  $("bars").replaceChildren(...rows);
}

// A class of one character is its own key; others have the keys 1 to 9, 0 and a to z.
function keysOf(classes) {
  if (classes.every((name) => [...name].length === 1)) return new Map(classes.map((name) => [name, name]));
  return new Map(classes.slice(0, 36).map((name, place) => ["1234567890abcdefghijklmnopqrstuvwxyz"[place], name]));
}

function drawClasses(item) {
  const classes = Object.keys(item.prediction.scores);
  const list = $("classes");
  if (list.dataset.classes !== JSON.stringify(classes)) {
    list.dataset.classes = JSON.stringify(classes);
    const keys = new Map([...keysOf(classes)].map(([pressed, name]) => [name, pressed]));
    list.classList.toggle("long", classes.some((name) => name.length > 2));
    list.replaceChildren(...classes.map((name) => {
      const button = element("button", { type: "button", textContent: name, value: name });
      if (keys.has(name) && keys.get(name) !== name) button.append(element("kbd", { textContent: keys.get(name) }));
      return button;
    }));
  }
  for (const button of list.children) {
    button.classList.toggle("best", button.value === item.prediction.label);
    button.setAttribute("aria-pressed", String(button.value === item.label));
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) target.item.loadReceived();
});

function tileOf(item) {
  const button = element("button", { type: "button" }, element("img", { alt: "" }),
    element("span", { className: "class" }), element("span", { className: "share" }));
  button.onclick = () => {
    select(items().indexOf(item));
    $("panel").focus({ preventScroll: true });
    $("panel").scrollIntoView({ block: "nearest" });
  };
  const tile = element("li", { item }, button);
  if (!item.received) seen.observe(tile);
  return tile;
}

function drawStrip() {
  const list = items();
  const places = list.length > 1 ? list.map((item) => item.tile) : [];
  const strip = $("strip");
  if (strip.children.length !== places.length || places.some((tile, place) => strip.children[place] !== tile))
    strip.replaceChildren(...places);
  strip.hidden = places.length === 0;
  for (const item of list) drawTile(item);
}

function drawTile(item) {
  const button = item.tile.firstChild;
  const [image, name, share] = button.children;
  setImage(image, item.received);
  const isBad = item.problem !== null || ["failed", "lost"].includes(item.state);
  name.textContent = item.label ?? item.prediction?.label ?? (item.problem ? "!" : "…");
  share.textContent = isBad ? "failed" : item.label !== null ? "✓" : item.prediction ? percent(item.prediction.score) : "";
  button.className = isBad ? "bad" : item.label !== null ? "done" : "";
  button.title = item.problem ?? item.name;
  button.setAttribute("aria-label", tileText(item));
  const isSelected = item === selected();
  if (isSelected && !button.hasAttribute("aria-current")) {
    const strip = $("strip"); // on a telephone it scrolls; the page stays where it is
    strip.scrollLeft = item.tile.offsetLeft - (strip.clientWidth - item.tile.clientWidth) / 2;
  }
  if (isSelected) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

function tileText(item) {
  if (item.problem) return `${item.name}: ${item.problem}`;
  if (!item.prediction) return `${item.name}: waiting`;
  const said = item.label === null ? "" : item.label === item.prediction.label ? ", confirmed" : `, corrected to ${item.label}`;
  return `${item.name}: ${item.prediction.label}, ${percent(item.prediction.score)}${said}`;
}

function openView(name) {
  view = name;
  document.title = `${name === "try" ? "Try" : "Label"} · captcha-assets`;
  if (name === "label" && !views.label.items.some(isOpen)) lookForMore();
  show();
}

// --- what people do

$("files").onchange = (event) => {
  add([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
};
addEventListener("paste", (event) => {
  if (event.target.closest?.("input[type=password]")) return;
  event.preventDefault();
  add([...event.clipboardData.files]);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add([...event.dataTransfer.files]);
});

for (const image of document.querySelectorAll("#images img"))
  image.addEventListener("load", () => image.classList.toggle("wide", image.naturalWidth > image.naturalHeight));
$("received").addEventListener("load", () => showReceived(true));
$("received").addEventListener("error", () => showReceived(false));
$("confirm").onclick = () => correct(selected(), selected().prediction.label);
$("back").onclick = () => move(-1);
$("next").onclick = () => move(1);
$("more").onclick = lookForMore;
$("classes").onclick = (event) => {
  const button = event.target.closest("button");
  if (button) correct(selected(), button.value);
};
// After a click the keys are the image's again, and Enter does not press the same button once more.
$("correct").addEventListener("click", (event) => {
  if (event.detail > 0) $("panel").focus({ preventScroll: true });
});
for (const radio of document.getElementsByName("order")) radio.onchange = () => changeOrder(radio.value);
$("by-keys").checked = localStorage.getItem("by-keys") !== "off";
$("by-keys").onchange = () => localStorage.setItem("by-keys", $("by-keys").checked ? "on" : "off");

function labelOf(pressed, item) {
  const keys = keysOf(Object.keys(item.prediction.scores));
  return keys.get(pressed) ?? keys.get(pressed.toLowerCase()) ?? keys.get(pressed.toUpperCase());
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("key-dialog").open) return;
  if (event.target.closest?.("input[type=radio]") && event.key.startsWith("Arrow")) return;
  const steps = { ArrowRight: 1, ArrowLeft: -1, Backspace: -1 };
  const item = selected();
  if (event.key in steps) {
    event.preventDefault();
    move(steps[event.key]);
  } else if ($("by-keys").checked && canCorrect(item)) {
    const isPressed = event.key === "Enter" && event.target.closest?.("a, button, input[type=file]");
    const label = event.key === "Enter" ? item.prediction.label : labelOf(event.key, item);
    if (label === undefined && event.key.trim().length === 1) say(`${event.key} is no class`);
    if (isPressed || label === undefined) return;
    event.preventDefault();
    correct(item, label);
  }
});

addEventListener("hashchange", () => openView(location.hash === "#label" ? "label" : "try"));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !isLocked) updateStatus();
});
addEventListener("beforeunload", (event) => {
  if (allItems().some((item) => ["saving", "failed"].includes(item.state))) event.preventDefault();
});

openView(location.hash === "#label" ? "label" : "try");
keepUpdated();

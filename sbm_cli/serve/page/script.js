"use strict";

const CHUNK = 2;  // seconds of sound that are fetched and scheduled at a time
const AHEAD = 4;  // seconds that are scheduled before they are heard
const FADE = 0.02;  // seconds between before and after
const POLL = 300;  // milliseconds
// From silence to the loudest, as stops of red, green and blue: ink on paper, or light in the dark.
const PALETTES = {
  light: [[250, 249, 246], [205, 221, 238], [110, 160, 210], [38, 92, 160], [12, 40, 90], [4, 14, 40]],
  dark: [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]],
};

const find = (selector, within = document) => within.querySelector(selector);
const dark = matchMedia("(prefers-color-scheme: dark)");
const cards = new Map();  // by the id of the job
let current = null;  // the card that the keys play

/* ---- talking to the server ---- */

async function ask(path, method = "GET") {
  let answer;
  try {
    answer = await fetch(path, {method});
  } catch {
    throw new Error("The server does not answer. Is sbm serve still running?");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error([told.error ?? answer.statusText, told.hint].filter(Boolean).join(" "));
  }
  return answer;
}

/* fetch cannot tell how far an upload is. */
function send(path, file, card) {
  return new Promise((done, failed) => {
    const request = card.request = new XMLHttpRequest();
    request.responseType = "json";
    request.upload.onprogress = event => card.say("Uploading", event.loaded / event.total);
    request.onload = () => {
      const told = request.response ?? {};
      if (request.status === 201) done(told);
      else failed(new Error([told.error ?? request.statusText, told.hint].filter(Boolean).join(" ")));
    };
    request.onerror = () => failed(new Error("The upload broke off. Is sbm serve still running?"));
    request.open("POST", path);
    request.send(file);
  });
}

const complain = (element, error) => {
  element.textContent = error ? error.message : "";
  element.hidden = !error;
};

/* ---- settings ---- */

const label = name => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

function makeKnob(knob) {
  const box = document.createElement("div"), head = document.createElement("label"), help = document.createElement("p");
  const input = document.createElement(knob.kind === "choice" ? "select" : "input");
  box.className = "knob";
  input.name = input.id = knob.name;
  input.setAttribute("aria-describedby", help.id = `${knob.name}-help`);
  head.htmlFor = knob.name;
  help.className = "note";
  help.textContent = knob.help;
  if (knob.kind === "choice") {
    for (const [value, text] of knob.choices) input.append(new Option(text, value));
  } else if (knob.kind === "flag") {
    Object.assign(input, {type: "checkbox", checked: knob.default});
    head.append(input);
  } else if (knob.default !== null && knob.most !== null) {
    const shown = document.createElement("output");
    Object.assign(input, {type: "range", min: knob.least, max: knob.most, step: (knob.most - knob.least) / 20, value: knob.default});
    const show = () => shown.textContent = knob.unit === "SHARE" ? `${Math.round(100 * input.value)} %` : input.value;
    input.addEventListener("input", show);
    show();
    head.append(label(knob.name), shown);
  } else {
    Object.assign(input, {type: "number", step: "any", placeholder: "off", value: knob.default ?? ""});
    if (knob.least !== null) input.min = knob.least;
    if (knob.most !== null) input.max = knob.most;
    head.append(knob.unit ? `${label(knob.name)} (${knob.unit.replace("DB", "dB")})` : label(knob.name));
  }
  if (knob.kind === "flag" || knob.kind === "choice") head.append(label(knob.name));
  box.append(head, ...(input.parentElement ? [] : [input]), help);
  return box;
}

/* What the form asks for; what stands at its default is left out. */
function wishes() {
  const query = new URLSearchParams();
  for (const knob of about.knobs) {
    const input = find(`#${knob.name}`);
    if (input.disabled) continue;
    if (knob.kind === "flag" ? input.checked !== knob.default : input.value !== "" && input.value !== String(knob.default ?? "")) {
      query.set(knob.name, knob.kind === "flag" ? input.checked : input.value);
    }
  }
  return query;
}

function settingsChanged() {
  const strength = find("#strength"), limit = find("#attenuation_limit");
  if (strength && limit) strength.disabled = limit.value !== "";  // both set the same thing
  for (const card of cards.values()) card.compare();
}

/* ---- playing: before and after from one clock, one of them silent ---- */

class Player {
  constructor(id, {rate, channels, samples}) {
    Object.assign(this, {id, rate, channels, samples, side: 1, start: 0, playing: false});
    this.duration = samples / rate;
  }

  get position() {
    if (!this.playing) return this.start;
    return Math.min(this.duration, Math.max(this.start, this.start + this.context.currentTime - this.began));
  }

  async play(from) {
    this.stop();
    this.playing = true;
    this.start = Math.round(from * this.rate) / this.rate;
    // At the rate of the sound, chunks meet without a seam.
    this.context = new AudioContext({sampleRate: this.rate});
    const gains = this.gains = [0, 1].map(side => {
      const gain = this.context.createGain();
      gain.gain.value = Number(side === this.side);
      gain.connect(this.context.destination);
      return gain;
    });
    const context = this.context;
    this.began = Infinity;
    await context.resume();
    for (let next = this.start; this.context === context && next < this.duration; next += CHUNK) {
      const chunk = await this.fetch(next);
      if (this.context !== context) return;
      if (next === this.start || this.began + next - this.start < context.currentTime) {  // at first, or late
        this.began = Math.ceil((context.currentTime + 0.05) * this.rate) / this.rate - (next - this.start);
      }
      chunk.forEach((buffer, side) => {
        const source = new AudioBufferSourceNode(context, {buffer});
        source.connect(gains[side]);
        source.start(this.began + next - this.start);
      });
      while (this.context === context && next + CHUNK - this.position > AHEAD) await new Promise(go => setTimeout(go, 200));
    }
  }

  /* Returns the next seconds of before and after. */
  async fetch(from) {
    const width = 2 * (this.channels[0] + this.channels[1]), first = Math.round(from * this.rate);
    const end = Math.min(this.samples, first + CHUNK * this.rate);
    const answer = await fetch(`jobs/${this.id}/sound`, {headers: {Range: `bytes=${first * width}-${end * width - 1}`}});
    const view = new DataView(await answer.arrayBuffer());
    let channel = 0;
    return this.channels.map(count => {
      const buffer = new AudioBuffer({length: end - first, numberOfChannels: count, sampleRate: this.rate});
      for (let own = 0; own < count; own++, channel++) {
        const samples = buffer.getChannelData(own);
        for (let at = 0; at < samples.length; at++) samples[at] = view.getInt16(at * width + 2 * channel, true) / 32768;
      }
      return buffer;
    });
  }

  stop() {
    if (!this.playing) return;
    this.start = this.position;
    this.playing = false;
    this.context.close();
    this.context = null;
  }

  listenTo(side) {
    this.side = side;
    this.gains?.forEach((gain, own) => gain.gain.setTargetAtTime(Number(own === side), gain.context.currentTime, FADE / 3));
  }
}

const clock = seconds => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

/* ---- a recording on the page ---- */

class Card {
  constructor(name) {
    this.element = find("#recording").content.firstElementChild.cloneNode(true);
    find("h2", this.element).textContent = name;
    find("#recordings").prepend(this.element);
    for (const radio of this.all(".side input")) {
      radio.name = `side-${crypto.randomUUID?.() ?? Math.random()}`;
    }
    const [before, after] = this.all(".side input");
    after.name = before.name;
    this.on(".remove", "click", () => this.remove());
    this.on(".play", "click", () => this.toggle());
    this.on(".again", "click", () => this.again());
    this.on(".side", "change", () => this.listenTo(Number(this.get(".side :checked").value)));
    this.on(".position", "input", event => this.seek(Number(event.target.value)));
    this.on(".pictures", "click", event => {
      const place = this.get(".pictures").getBoundingClientRect();
      this.seek((event.clientX - place.left) / place.width * this.player.duration);
    });
  }

  get(selector) { return find(selector, this.element); }
  all(selector) { return [...this.element.querySelectorAll(selector)]; }
  on(selector, event, action) { this.get(selector).addEventListener(event, action); }

  say(text, share) {
    this.get(".state").textContent = text;
    const bar = this.get("progress");
    bar.hidden = share === null;
    if (share === undefined) bar.removeAttribute("value");
    else bar.value = share ?? 0;
  }

  fail(error) {
    this.say("", null);
    complain(this.get(".problem"), error);
  }

  async upload(file, name) {
    try {
      const query = wishes();
      query.set("name", name);
      this.say("Uploading", 0);
      await this.follow(await send(`jobs?${query}`, file, this));
    } catch (error) {
      this.fail(error);
    }
  }

  /* Shows a job until it has ended. */
  async follow(job) {
    cards.set(this.id = job.id, this);
    remember();
    while (job.state === "waiting" || job.state === "running") {
      const share = job.total ? Math.min(1, job.done / job.total) : undefined;
      const percent = share === undefined ? "" : ` ${Math.floor(100 * share)} %`;
      if (job.state === "waiting") this.say("Waiting for its turn", undefined);
      else this.say(share === 1 ? "Drawing" : `Cleaning${percent}`, share);
      await new Promise(go => setTimeout(go, POLL));
      if (this.removed) return;
      job = await (await ask(`jobs/${this.id}`)).json();
    }
    this.job = job;
    if (job.state === "failed") this.fail(new Error([job.error, job.hint].filter(Boolean).join(" ")));
    else await this.show();
  }

  async show() {
    const {job} = this, {rows, columns} = job.listening;
    this.player = new Player(this.id, job.listening);
    complain(this.get(".problem"), null);
    this.say(`${clock(job.seconds)}, cleaned by ${job.model} in ${job.elapsed.toFixed(1)} s`, null);
    const link = this.get(".download");
    link.href = `jobs/${this.id}/file`;
    link.download = job.output;
    link.textContent = `Download ${job.output.slice(job.output.lastIndexOf("."))}`;
    this.get(".notes").replaceChildren(...notes(job).map(text => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    const position = this.get(".position");
    position.max = this.player.duration;
    this.levels = new Uint8Array(await (await ask(`jobs/${this.id}/picture`)).arrayBuffer());
    this.size = [rows, columns];
    this.get(".top").textContent = `${job.listening.rate / 2000} kHz`;
    this.paint();
    this.listenTo(Number(this.get(".side :checked").value));
    this.tick();
    this.compare();
    this.get(".result").hidden = false;
    current ??= this;
  }

  /* Colours the pictures; once more when the colours of the page change. */
  paint() {
    if (!this.levels) return;
    const [rows, columns] = this.size, stops = PALETTES[dark.matches ? "dark" : "light"];
    this.all("canvas").forEach((canvas, side) => {
      Object.assign(canvas, {width: columns, height: rows});
      const image = new ImageData(columns, rows);
      for (let point = 0; point < rows * columns; point++) {
        const place = this.levels[side * rows * columns + point] / 255 * (stops.length - 1);
        const low = Math.min(Math.floor(place), stops.length - 2), share = place - low;
        for (let part = 0; part < 3; part++) {
          image.data[4 * point + part] = (1 - share) * stops[low][part] + share * stops[low + 1][part];
        }
        image.data[4 * point + 3] = 255;
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
    });
  }

  toggle() {
    if (this.player.playing) this.player.stop();
    else this.playFrom(this.player.start < this.player.duration - 0.01 ? this.player.start : 0);
    this.tick();
  }

  playFrom(seconds) {
    for (const card of cards.values()) if (card !== this) card.player?.stop();
    current = this;
    this.player.play(seconds).catch(error => {
      this.player.stop();
      this.fail(error);
    });
  }

  seek(seconds) {
    current = this;
    if (this.player.playing) this.playFrom(seconds);
    else this.player.start = seconds;
    this.tick();
  }

  listenTo(side) {
    this.player?.listenTo(side);
    this.all(".side input")[side].checked = true;
    this.all(".pictures figure").forEach((figure, own) => figure.classList.toggle("heard", own === side));
  }

  /* Shows where the player is, and goes on as long as it plays. */
  tick() {
    cancelAnimationFrame(this.frame);
    const {player} = this;
    if (player.playing && player.position >= player.duration) player.stop();
    const {position, duration} = player, slider = this.get(".position");
    slider.value = position;
    slider.setAttribute("aria-valuetext", `${clock(position)} of ${clock(duration)}`);
    this.get(".playhead").style.left = `${duration ? 100 * position / duration : 0}%`;
    this.get(".time").textContent = `${clock(position)} / ${clock(duration)}`;
    this.get(".play").textContent = player.playing ? "Pause" : "Play";
    if (player.playing) this.frame = requestAnimationFrame(() => this.tick());
  }

  /* Offers the settings of the form where they are not those that the recording was cleaned with. */
  compare() {
    if (this.job) this.get(".again").hidden = this.job.query === wishes().toString();
  }

  async again() {
    try {
      const job = await (await ask(`jobs/${this.id}?${wishes()}`, "PUT")).json();
      this.player.stop();
      this.get(".again").hidden = true;
      this.get(".result").hidden = true;
      await this.follow(job);
      this.get(".play").focus();
    } catch (error) {
      this.fail(error);
    }
  }

  remove() {
    this.player?.stop();
    this.request?.abort();
    this.removed = true;
    this.element.remove();
    cards.delete(this.id);
    if (current === this) current = null;
    remember();
    if (this.id) ask(`jobs/${this.id}`, "DELETE").catch(() => {});  // the server removes it some time anyway
    find("#files").focus();
  }
}

/* What is worth knowing about a result. */
function notes(job) {
  const found = [...job.notes];
  if (job.clipped) found.push(`${job.clipped} samples were beyond full scale and are clipped.`);
  if (job.not_carried.length) found.push(`Not carried over: ${job.not_carried.join(", ")}.`);
  if (job.band_limit) found.push(`The output ends at ${job.band_limit / 1000} kHz; “Keep high band” was switched off.`);
  return found;
}

/* A page that is loaded again finds its recordings. */
function remember() {
  sessionStorage.jobs = JSON.stringify([...cards.keys()]);
}

async function restore() {
  for (const id of JSON.parse(sessionStorage.jobs ?? "[]")) {
    try {
      const job = await (await ask(`jobs/${id}`)).json();
      new Card(job.name).follow(job).catch(() => {});
    } catch { /* it has expired */ }
  }
}

/* ---- files and the microphone ---- */

async function add(files) {
  const waiting = [...files].map(file => [new Card(file.name), file]);
  for (const [card, file] of waiting) {
    if (!card.removed) card.say("Waiting to be uploaded", undefined);
  }
  for (const [card, file] of waiting) {
    if (!card.removed) await Promise.race([card.upload(file, file.name), untilUploaded(card)]);
  }
}

/* The next file is sent while the server works on the one before. */
async function untilUploaded(card) {
  while (!card.id && !card.removed) await new Promise(go => setTimeout(go, POLL));
}

class Recorder {
  async start() {
    const untouched = {echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1};
    this.stream = await navigator.mediaDevices.getUserMedia({audio: untouched});
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("recorder.js");
    this.blocks = [];
    this.samples = 0;
    const node = new AudioWorkletNode(this.context, "recorder", {numberOfOutputs: 0});
    node.port.onmessage = ({data}) => {
      this.blocks.push(Int16Array.from(data, sample => Math.max(-32768, Math.min(32767, Math.round(32768 * sample)))));
      this.samples += data.length;
    };
    this.context.createMediaStreamSource(this.stream).connect(node);
  }

  get seconds() { return this.samples / this.context.sampleRate; }

  stop() {
    this.stream.getTracks().forEach(track => track.stop());
    this.context.close();
    const rate = this.context.sampleRate, bytes = 2 * this.samples, head = new DataView(new ArrayBuffer(44));
    const text = (at, letters) => [...letters].forEach((letter, k) => head.setUint8(at + k, letter.charCodeAt(0)));
    text(0, "RIFF"); text(8, "WAVEfmt "); text(36, "data");
    for (const [at, value] of [[4, 36 + bytes], [16, 16], [24, rate], [28, 2 * rate], [40, bytes]]) head.setUint32(at, value, true);
    for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) head.setUint16(at, value, true);
    return new Blob([head, ...this.blocks], {type: "audio/wav"});
  }
}

let recorder = null;
async function record() {
  const button = find("#record");
  complain(find("#problem"), null);
  if (recorder) {
    const done = recorder;
    recorder = null;
    button.textContent = "Record";
    button.setAttribute("aria-pressed", "false");
    const stamp = new Date(Date.now() - 60000 * new Date().getTimezoneOffset()).toISOString().slice(0, 19).replaceAll(":", "-");
    add([new File([done.stop()], `recording-${stamp}.wav`)]);
    return;
  }
  const starting = new Recorder();
  try {
    button.disabled = true;
    await starting.start();
  } catch (error) {
    complain(find("#problem"), new Error(`No microphone: ${error.message}`));
    return;
  } finally {
    button.disabled = false;
  }
  recorder = starting;
  button.setAttribute("aria-pressed", "true");
  const show = () => {
    if (recorder !== starting) return;
    button.textContent = `Stop ${clock(starting.seconds)}`;
    if (starting.seconds > about.seconds) record();
    else setTimeout(show, POLL);
  };
  show();
}

/* ---- the page as a whole ---- */

let about;
async function begin() {
  try {
    about = await (await ask("about")).json();
  } catch (error) {
    complain(find("#problem"), error);
    return;
  }
  const format = {
    name: "ext", kind: "choice", help: "Format of the download.", default: "",
    choices: [["", "as the input"], ...about.formats.map(suffix => [suffix.slice(1), suffix.slice(1).toUpperCase()])],
  };
  about.knobs.push(format);
  find("#settings").append(...about.knobs.map(makeKnob));
  find("label[for=ext]").textContent = "Format";
  const minutes = about.seconds / 60;
  find("#limits").textContent = `Audio and video of any format, up to ${about.size / 1e6} MB and ${minutes} minutes. `
    + `They stay on the computer that serves this page, and are gone ${about.keep / 60} minutes after you leave.`;
  find("#about").textContent = `Model: ${about.model}`;
  find("#settings").addEventListener("input", settingsChanged);
  find("#settings").addEventListener("submit", event => event.preventDefault());
  find("#files").addEventListener("change", event => {
    add(event.target.files);
    event.target.value = "";
  });
  if (navigator.mediaDevices) find("#record").addEventListener("click", record);
  else find("#record").hidden = true;  // a page from another computer has none without https
  find("details").open = innerWidth > 640;  // on a phone the recordings come first
  dark.addEventListener("change", () => cards.forEach(card => card.paint()));
  setInterval(() => cards.forEach(card => ask(`jobs/${card.id}`).catch(() => {})), Math.min(Math.max(1000, 1000 * about.keep / 3), 300000));
  await restore();
}

let over = 0;  // elements of the page that a dragged file is above
addEventListener("dragenter", () => { over++; find("#drop").classList.add("over"); });
addEventListener("dragleave", () => { if (!--over) find("#drop").classList.remove("over"); });
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => {
  event.preventDefault();
  over = 0;
  find("#drop").classList.remove("over");
  if (event.dataTransfer.files.length) add(event.dataTransfer.files);
});
addEventListener("keydown", event => {
  if (!current?.player || event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.closest("input:not([type=radio], [type=range], [type=checkbox]), select, textarea");
  if (event.key.toLowerCase() === "b" && !inField) current.listenTo(1 - current.player.side);
  else if (event.key === " " && !event.target.closest("input, select, textarea, button, a, label")) current.toggle();
  else return;
  event.preventDefault();
});
begin();

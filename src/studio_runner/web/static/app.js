"use strict";
// Keeps the page current: asks the server for it again when something happened, and puts the changed parts in place.
// The server renders; nothing from outside ever becomes HTML here.

const REFRESH = 3000;    // ms between two looks while something runs (memory is not an event)
const SETTLE = 150;      // ms to wait for more events before looking
const KEPT = 400000;     // characters of output kept on the page
const TAIL = 65536;      // bytes of output to begin with

// --- times -----------------------------------------------------------------------------------------------------

function clock(seconds) {
  if (seconds < 10) return Math.max(0, seconds).toFixed(1) + "\u00a0s";
  const whole = Math.round(seconds);
  if (whole < 60) return whole + "\u00a0s";
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function ago(when) {
  const seconds = (Date.now() - when) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return when.toLocaleDateString();
}

function tick() {
  for (const node of document.querySelectorAll("[data-since]")) {
    node.textContent = clock(Date.now() / 1000 - Number(node.dataset.since));
  }
  for (const node of document.querySelectorAll("time[datetime]")) {
    const when = new Date(node.dateTime);
    node.textContent = ago(when);
    node.title = when.toLocaleString();
  }
}

// --- the page --------------------------------------------------------------------------------------------------

let looking = false, again = false;

async function look() {
  if (looking) { again = true; return; }
  looking = true;
  try {
    const answer = await fetch(location.pathname, { headers: { Accept: "text/html" } });
    if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch { /* the event stream tells of a lost connection */ }
  looking = false;
  if (again) { again = false; soon(); }
}

function replace(fresh) {
  const focused = document.activeElement && document.activeElement.getAttribute("href");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (other && other.innerHTML !== part.innerHTML) part.replaceChildren(...other.childNodes);
  }
  if (focused && document.activeElement === document.body) {
    const target = document.querySelector(`main a[href="${CSS.escape(focused)}"]`);
    if (target) target.focus({ preventScroll: true });
  }
  const output = fresh.getElementById("output");
  if (output && text) text.dataset.status = output.dataset.status;
  tick();
}

let waiting = 0;
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(look, SETTLE);
}

function busy() {
  return document.querySelector("main .busy") !== null;
}

// --- the output ------------------------------------------------------------------------------------------------

const text = document.getElementById("output");
let reading = false;

async function read() {
  if (!text || reading) return;
  reading = true;
  try {
    const answer = await fetch(`${text.dataset.source}?follow=true&tail=${TAIL}`);
    if (answer.ok) {
      text.textContent = "";
      const decoder = new TextDecoder();
      for (const reader = answer.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) break;
        append(decoder.decode(value, { stream: true }));
      }
    }
  } catch { /* it is read again at the next event */ }
  reading = false;
}

function append(piece) {
  const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
  text.append(piece);
  if (text.textContent.length > KEPT) text.textContent = text.textContent.slice(-KEPT / 2);
  text.normalize();
  if (atEnd) text.scrollTop = text.scrollHeight;
}

// --- events ----------------------------------------------------------------------------------------------------

function listen() {
  const link = document.getElementById("link");
  const source = new EventSource("/api/v1/events");
  let open = false;
  source.onopen = () => {
    link.textContent = "";
    if (open) { soon(); read(); }
    open = true;
  };
  source.onerror = () => { link.textContent = "no connection to the runner"; };
  const mine = text && text.dataset.source;
  const concerns = (event) => !mine || mine.includes(`/${encodeURIComponent(JSON.parse(event.data).key)}/`);
  for (const name of ["started", "stage", "checkpoint", "ended"]) {
    source.addEventListener(name, (event) => {
      if (!concerns(event)) return;
      soon();
      if (name === "started" || name === "ended") read();
    });
  }
  source.addEventListener("reset", () => { soon(); read(); });
  window.addEventListener("pagehide", () => source.close());
}

tick();
setInterval(tick, 1000);
setInterval(() => { if (busy() && !document.hidden) look(); }, REFRESH);
document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
listen();
read();

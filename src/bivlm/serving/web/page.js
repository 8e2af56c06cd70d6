// The page: deep-chat shows the conversation; the server's answers come from completions.js.
import "./deepChat.bundle.js";
import { Refused, answerTo, describe, messagesOf } from "./completions.js";

const KEY = "bivlm-key"; // in the tab alone: it is gone when the tab is closed
const FEW = 4; // tokens; of fewer no speed is told
const REMOVE = ".remove-file-attachment-button";
const BUTTONS = `.input-button, ${REMOVE}`;
const at = (id) => document.getElementById(id);
const bubble = (colours) => ({ bubble: { ...colours, maxWidth: "85%", borderRadius: "0.8rem" } });
const icon = { svg: { styles: { default: { filter: "var(--icon)" } } } };
const line = "1px solid var(--line)";
let model;
let stop = new AbortController(); // of the answer under way
let entered = 0; // how often a key was tried

const styles = {
  chatStyle: { width: "100%", height: "100%", borderTop: line, borderRight: line, borderBottom: line, borderLeft: line,
    borderRadius: "0.8rem", backgroundColor: "var(--paper)", fontFamily: "inherit", fontSize: "1rem" },
  messageStyles: {
    default: {
      shared: bubble({ color: "var(--ink)" }),
      user: bubble({ backgroundColor: "var(--mine)", color: "var(--on-mine)" }),
      ai: bubble({ backgroundColor: "var(--theirs)", color: "var(--ink)" }),
    },
    image: { user: { bubble: { maxWidth: "min(12rem, 75%)" } } },
    error: { bubble: { backgroundColor: "var(--wrong-paper)", color: "var(--wrong)", fontSize: "1rem" } },
  },
  textInput: {
    placeholder: { text: "Ask about a picture: drop it here, paste it, or choose it", style: { color: "var(--quiet)" } },
    styles: {
      container: { backgroundColor: "var(--raised)", border: line, color: "var(--ink)", boxShadow: "none" },
      text: { color: "var(--ink)" },
    },
  },
  attachmentContainerStyle: { backgroundColor: "var(--raised)", border: line },
  dragAndDrop: { backgroundColor: "color-mix(in srgb, var(--accent) 20%, transparent)", border: "3px dashed var(--accent)" },
  submitButtonStyles: { submit: icon, disabled: icon, loading: icon, stop: icon },
};
const shadowed = `
  :focus-visible { outline: 2px solid var(--accent) !important; outline-offset: 1px; }
  #messages { scrollbar-color: var(--line) transparent; }
  .image-message img { border: 1px solid var(--line); }
`;

function shareAsked() {
  const share = Number(at("share").value) / 100;
  return model.visual_tokens === null || share === model.visual_tokens ? {} : { visual_tokens: share };
}

async function answer(chat, signals) {
  stop = new AbortController();
  const { signal } = stop;
  signals.stopClicked.listener = () => stop.abort();
  signals.onOpen();
  at("speed").textContent = "reading …";
  const began = performance.now();
  let first;
  try {
    const pieces = answerTo(messagesOf(chat.getMessages()), shareAsked(), sessionStorage.getItem(KEY), signal);
    for await (const { text, usage } of pieces) {
      if (usage) at("speed").textContent = told(usage, first, began);
      if (!text) continue;
      if (first === undefined) at("speed").textContent = "answering …";
      first ??= performance.now();
      signals.onResponse({ text });
    }
    if (first === undefined) signals.onResponse({ text: "(an empty answer)" });
    signals.onClose();
  } catch (error) {
    signals.onClose();
    at("speed").textContent = signal.aborted ? "stopped" : "";
    if (!signal.aborted) chat.addMessage({ error: error.message });
    if (error instanceof Refused && error.status === 401) askForKey();
  }
  chat.scrollToBottom(); // pictures take their place late
}

function told({ completion_tokens: tokens, prompt_tokens: read }, first, began) {
  const words = [`${read} tokens read`, `${tokens} answered`];
  if (first !== undefined) words.push(`first after ${((first - began) / 1000).toFixed(1)} s`);
  const rate = (1000 * (tokens - 1)) / (performance.now() - first);
  if (tokens >= FEW) words.push(`${rate.toFixed(1)} tokens/s`);
  return words.join(" · ");
}

function facts({ weight_bytes: bytes, true_bits: bits }) {
  const size = bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;
  return [size, bits === null ? "not packed" : `${bits.toFixed(2)} true bits per weight`].join(" · ");
}

function showShare() {
  at("kept").textContent = `${at("share").value} %`;
}

function begin() {
  at("name").textContent = document.title = model.id;
  at("facts").textContent = facts(model);
  at("visual").hidden = model.visual_tokens === null;
  at("share").value = Math.round(100 * (model.visual_tokens ?? 1));
  showShare();
  document.querySelector("footer").hidden = false;
  newChat();
}

function newChat() {
  stop.abort();
  at("speed").textContent = "";
  const chat = document.createElement("deep-chat");
  Object.assign(chat.style, styles.chatStyle);
  Object.assign(chat, styles, {
    auxiliaryStyle: shadowed,
    connect: { stream: true, handler: (_, signals) => answer(chat, signals) },
    images: { files: { maxNumberOfFiles: model.max_images, acceptedFormats: "image/*" }, button: { styles: icon } },
    validateInput: (text) => Boolean(text?.trim()),
    errorMessages: { displayServiceErrorMessages: true },
  });
  const inside = chat.shadowRoot.getElementById("container"); // drawn more than once
  new MutationObserver(() => labelled(chat)).observe(inside, { childList: true });
  chat.shadowRoot.addEventListener("click", follow);
  chat.shadowRoot.addEventListener("keydown", press);
  at("place").replaceChildren(chat);
}

/** Only links to web pages are followed, whatever an answer says. */
function follow(event) {
  const link = event.target.closest("a");
  if (link && !link.download && !/^https?:$/.test(link.protocol)) event.preventDefault();
}

/** deep-chat's buttons, which hear the mouse alone. */
function press(event) {
  const button = event.target.closest(BUTTONS);
  if (!button || (event.key !== "Enter" && event.key !== " ")) return;
  event.preventDefault();
  button.click();
}

function say(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element?.setAttribute(name, value);
}

/** What deep-chat leaves to be said to those who do not see it. */
function labelled(chat) {
  const found = (selector) => chat.shadowRoot.querySelector(selector);
  say(found("#messages"), { role: "log", "aria-label": "Conversation", tabindex: "0" });
  say(found("#text-input"), { role: "textbox", "aria-multiline": "true" });
  say(found(".inside-end"), { "aria-label": "Send, or stop the answer" });
  say(found("#upload-images-icon")?.parentElement, { "aria-label": "Choose pictures" });
  const given = found("#file-attachment-container");
  new MutationObserver(() => {
    for (const button of given.querySelectorAll(REMOVE))
      say(button, { role: "button", tabindex: "0", "aria-label": "Remove the picture" });
  }).observe(given, { childList: true, subtree: true });
  chat.focusInput();
}

function askForKey() {
  at("unlock").hidden = false;
  at("key").focus();
}

async function enter() {
  const own = ++entered;
  let found;
  try {
    found = await describe(sessionStorage.getItem(KEY));
  } catch (error) {
    if (own !== entered) return; // another key was typed meanwhile
    if (error instanceof Refused && error.status === 401) askForKey();
    else at("facts").textContent = `the server cannot be reached: ${error.message}`;
    return;
  }
  if (own !== entered) return;
  model = found;
  at("unlock").hidden = true;
  begin();
}

at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value);
  at("key").value = "";
  enter();
});
at("clear").addEventListener("click", newChat);
at("share").addEventListener("input", showShare);
enter();

// What the page asks of the server: the model's description, and answers that come piece by piece.

/** What went wrong, in the server's words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function opened(path, key, options = {}) {
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Refused(response.status, told?.error?.message ?? `the server answers with status ${response.status}`);
}

/** The first model that the server lists. */
export async function describe(key) {
  const response = await opened("v1/models", key);
  return (await response.json()).data[0];
}

/** The messages of deep-chat as OpenAI's. */
export function messagesOf(shown) {
  const said = shown.filter((one) => one.role === "user" || one.role === "ai");
  return said.map(({ role, text, files }) => {
    if (role === "ai") return { role: "assistant", content: text ?? "" };
    const images = (files ?? []).map(({ src }) => ({ type: "image_url", image_url: { url: src } }));
    return { role, content: [...images, ...(text ? [{ type: "text", text }] : [])] };
  });
}

/** One question: the pieces of its answer, and at the end {usage}. */
export async function* answerTo(messages, settings, key, signal) {
  const body = { messages, stream: true, stream_options: { include_usage: true }, ...settings };
  const options = { method: "POST", body: JSON.stringify(body), signal };
  const response = await opened("v1/chat/completions", key, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Refused(0, "the server ended the answer before it was complete");
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const { error, choices, usage } = JSON.parse(data);
      if (error) throw new Refused(0, error.message);
      if (choices[0]?.delta.content) yield { text: choices[0].delta.content };
      if (usage) yield { usage };
    }
  }
}


"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const details = document.getElementById("details");
const box = (prefix, i) => document.getElementById(prefix + i);

function element(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}

function list(title, items, tag = "ul") {
  if (items.length === 0) return;
  const made = element(tag);
  for (const [text, note] of items) {
    const item = element("li");
    item.append(element("code", text));
    if (note) item.append(element("small", note));
    made.append(item);
  }
  details.append(element("h3", title), made);
}

function choose(kernels, nodes) {
  document.querySelectorAll(".chosen").forEach((chosen) => chosen.classList.remove("chosen"));
  kernels.forEach((i) => box("k", i).classList.add("chosen"));
  nodes.forEach((i) => box("n", i).classList.add("chosen"));
}

const shares = (a, b) => a.some((name) => b.includes(name));

function showKernel(i) {
  const kernel = data.kernels[i];
  const nodes = data.nodes.map((_, n) => n).filter((n) => shares(data.nodes[n].origins, kernel.origins));
  choose([i], nodes);
  if (nodes.length > 0) box("n", nodes[0]).scrollIntoView({ block: "center", inline: "center" });
  details.replaceChildren(element("h2", kernel.name), element("code", kernel.value + ": " + kernel.type));
  const times = [[kernel.predicted_us.toFixed(2) + " us", "predicted"]];
  if (kernel.measured_us !== undefined) times.push([kernel.measured_us.toFixed(2) + " us", "measured, median"]);
  list("Time on one thread", times);
  list("Computes", kernel.ops.map((op) => [op]));
  list("From the model's nodes", kernel.origins.map((name) => [name]));
  list("By these rules", kernel.rules.map((rule) => [
    (rule.backwards ? "~" : "") + rule.rule + (rule.times > 1 ? " x" + rule.times : ""),
    rule.class + ": " + rule.equation,
  ]), "ol");
  if (kernel.rules.length === 0) details.append(element("h3", "By these rules"), element("p", "None: as the model has it."));
  list("Without a proof within the budget", kernel.unexplained.map((name) => [name]));
  list("Reads from other kernels", kernel.not_fused.map((between) => [
    between.value + " of " + between.kernel,
    "Not one kernel: " + between.reason + ". It would need " + between.condition + ".",
  ]));
}

function showNode(i) {
  const node = data.nodes[i];
  const kernels = data.kernels.map((_, k) => k).filter((k) => shares(data.kernels[k].origins, node.origins));
  choose(kernels, [i]);
  if (kernels.length > 0) box("k", kernels[0]).scrollIntoView({ block: "center", inline: "center" });
  details.replaceChildren(element("h2", node.op), element("code", node.value + ": " + node.type));
  list("From the model's nodes", node.origins.map((name) => [name]));
  list("Computed by", kernels.map((k) => [data.kernels[k].name + " " + data.kernels[k].ops.join(" \u00b7 ")]));
  if (kernels.length === 0) details.append(element("p", "No kernel: it was computed at compile time."));
}

function listen(prefix, count, show) {
  for (let i = 0; i < count; i++) {
    box(prefix, i).addEventListener("click", () => show(i));
    box(prefix, i).addEventListener("keydown", (event) => { if (event.key === "Enter") show(i); });
  }
}
listen("n", data.nodes.length, showNode);
listen("k", data.kernels.length, showKernel);

// A part of the page's address chooses a kernel: #k3.
const asked = /^#k(\d+)$/.exec(location.hash);
if (asked && Number(asked[1]) < data.kernels.length) {
  showKernel(Number(asked[1]));
  // The browser itself brings the box to the upper edge.
  addEventListener("load", () => box("k", Number(asked[1])).scrollIntoView({ block: "center", inline: "center" }));
}

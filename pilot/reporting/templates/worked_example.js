if (examples.pairs) workedExample();

function workedExample() {
  const pairChoice = document.getElementById("pair");
  const directions = [...document.querySelectorAll("input[name=direction]")];
  const side = ({ expression }) => element("span", { className: "expression", textContent: expression });
  let patched = "top_k";
  let drawing = Promise.resolve();

  examples.pairs.forEach(({ clean, corrupt }, i) => pairChoice.add(new Option(`${clean.expression} and ${corrupt.expression}`, i)));
  [pairChoice, ...directions].forEach((input) => input.addEventListener("change", show));
  show();

  function show() {
    const pair = examples.pairs[pairChoice.value];
    const direction = directions.find((input) => input.checked).value;
    const [recipient, donor] = examples.roles[direction].map((role) => pair[role]);
    const answers = pair.patched[direction];
    const kind = (answer) => (answer === donor.answer ? "donor" : answer === recipient.answer ? "own" : "other");
    const name = (key) => (key === "top_k" ? `the selected heads (${examples.selected.join(", ")})` : key);

    const now = { donor: "the donor's answer", own: "as without the patch", other: "neither its own answer nor the donor's" };
    document.getElementById("told").replaceChildren(
      "The model answers ", side(recipient), ` with ${verdict(recipient)} and the donor `, side(donor), ` with ${verdict(donor)}. `,
      `With the output of ${name(patched)} taken from the donor, it answers the first with `,
      element("b", { textContent: answers[patched] }), `: ${now[kind(answers[patched])]}.`,
    );
    drawHeads(answers, kind, name);
    drawPatterns(recipient, donor);
  }

  function verdict({ answer, result }) {
    return answer === result ? `${answer} (right)` : `${answer} (wrong: it is ${result})`;
  }

  function drawHeads(answers, kind, name) {
    const layers = new Map();
    for (const key of Object.keys(answers).filter((key) => key !== "top_k")) {
      const layer = key.slice(0, key.indexOf("H"));
      layers.set(layer, [...(layers.get(layer) ?? []), key]);
    }
    const button = (key, text) => {
      const made = element("button", { type: "button", className: kind(answers[key]), textContent: text, title: name(key) });
      made.dataset.patched = key;
      made.setAttribute("aria-label", `${name(key)} patched: ${answers[key]}`);
      made.setAttribute("aria-pressed", key === patched);
      made.addEventListener("click", () => {
        patched = key;
        show();
        document.querySelector(`[data-patched="${key}"]`).focus(); // the buttons are new
      });
      return made;
    };
    const width = Math.max(...[...layers.values()].map((keys) => keys.length));
    const head = row("th", ["", ...Array.from({ length: width }, (_, i) => `H${i}`)]);
    const rows = [...layers].map(([layer, keys]) => row("td", [layer, ...keys.map((key) => button(key, answers[key]))]));
    const together = row("td", ["selected", button("top_k", answers.top_k)]);
    together.lastChild.colSpan = width;
    document.getElementById("heads").replaceChildren(head, ...rows, together);
  }

  function drawPatterns(recipient, donor) {
    const heads = patched === "top_k" ? examples.selected : [patched];
    document.getElementById("attending").textContent =
      `Where ${heads.join(", ")} attend${heads.length > 1 ? "" : "s"} in the two unpatched runs. A row is the position that reads, a ` +
      "column one that is read; darker is more attention, and ^ is the start of the line. The patch puts what was read in " +
      "the donor's run into the recipient's.";
    const patterns = heads.flatMap((key) => [
      [`${key}, recipient`, pattern(recipient, key)],
      [`${key}, donor`, pattern(donor, key)],
    ]);
    const panels = document.getElementById("patterns");
    drawing = drawing.then(() => draw(panels, patterns)); // a chart cannot be removed while it is drawn
  }

  function pattern({ tokens, attention }, key) {
    const positions = tokens.map((_, i) => i);
    const labels = tokens.map((token) => token || "^");
    const z = attention[key].map((row) => positions.map((i) => (i < row.length ? row[i] / 1000 : null)));
    const text = z.map((row, from) => row.map((_, to) => `${labels[from]} (${from}) attends to ${labels[to]} (${to})`));
    const axis = { tickvals: positions, ticktext: labels, fixedrange: true, showgrid: false, zeroline: false, tickangle: 0 };
    const heatmap = {
      type: "heatmap", z, text, hoverongaps: false, zmin: 0, zmax: 1, colorscale: colours, xgap: 1, ygap: 1,
      hovertemplate: "%{text}: <b>%{z:.3f}</b><extra></extra>", colorbar: { thickness: 10, outlinewidth: 0 },
    };
    const layout = {
      height: 320, margin: { l: 30, r: 10, t: 10, b: 30 }, dragmode: false,
      font: { family: "system-ui, sans-serif" }, xaxis: axis, yaxis: { ...axis, autorange: "reversed" },
    };
    return { data: [heatmap], layout };
  }
}


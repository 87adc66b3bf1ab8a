if (examples.length) workedExample();

// One pair: its two prompts, what patching does to the answer, and where a head attends in the clean prompt.
function workedExample() {
  const [pairChoice, headChoice] = ["pair", "head"].map((id) => document.getElementById(id));
  const directions = [...document.querySelectorAll("input[name=direction]")];
  let reader; // the position whose attention the text shows
  let drawing = Promise.resolve();

  examples.forEach(({ clean }, i) => pairChoice.add(new Option(shorten(clean.join("")), i)));
  pairChoice.addEventListener("change", showPair);
  headChoice.addEventListener("change", showHead);
  directions.forEach((input) => input.addEventListener("change", showPatched));
  showPair();

  function showPair() {
    const { clean, corrupt, clean_answer, corrupt_answer, patched, attention } = examples[pairChoice.value];
    const side = (name, tokens, others, answer) => [
      `${name}: `,
      ...tokens.map((token, i) => element(token === others[i] ? "span" : "mark", { textContent: token })),
      " → ",
      element("b", { textContent: visible(answer) }),
    ];
    document.getElementById("sides").replaceChildren(
      ...side("Clean", clean, corrupt, clean_answer), element("br", {}), ...side("Corrupt", corrupt, clean, corrupt_answer),
    );
    showPatched();
    const before = headChoice.value || patched[0]?.heads; // at first the leading head
    headChoice.replaceChildren(...Object.keys(attention).map((name) => new Option(name)));
    if (before in attention) headChoice.value = before;
    reader = clean.length - 1;
    showHead();
  }

  function showPatched() {
    const direction = directions.find((input) => input.checked).value;
    const rows = examples[pairChoice.value].patched.filter((patch) => patch.direction === direction);
    const header = ["heads patched", "logit difference", "recovery", "next token"];
    document.getElementById("patched").replaceChildren(row("th", header), ...rows.map(({ heads, ld, recovery, answer }) =>
      row("td", [named(heads.split("+")), ld.toFixed(2), recovery.toFixed(2), visible(answer)])));
  }

  // A long set as its first and last heads; all of them in a tooltip.
  function named(heads) {
    if (heads.length <= 3) return heads.join(", ");
    const title = heads.join(", ");
    return element("span", { title, textContent: `${heads[0]}, ${heads[1]}, … ${heads.at(-1)} (${heads.length} heads)` });
  }

  function showHead() {
    showText();
    const { clean, attention } = examples[pairChoice.value];
    const name = headChoice.value;
    const chart = pattern(clean, attention[name]);
    drawing = drawing.then(() => draw(document.getElementById("patterns"), [[`${name}, all positions`, chart]]));
  }

  function showText() {
    const { clean, attention } = examples[pairChoice.value];
    const weights = attention[headChoice.value][reader];
    document.getElementById("attending").textContent =
      `Where ${headChoice.value} attends from the token with a frame, in the clean run: the darker a token, the more. ` +
      "Choose another token to see where it attends.";
    document.getElementById("text").replaceChildren(...clean.map((token, i) => {
      const weight = i <= reader ? weights[i] : 0;
      const button = element("button", { type: "button", textContent: visible(token), title: `${(100 * weight).toFixed(0)}%` });
      button.style.background = `rgba(0, 114, 178, ${weight})`;
      if (weight > 0.5) button.style.color = "#fff";
      button.setAttribute("aria-pressed", i === reader);
      button.setAttribute("aria-label", `${visible(token)}, position ${i}: ${(100 * weight).toFixed(0)}% of the attention`);
      button.addEventListener("click", () => {
        reader = i;
        showText();
        document.getElementById("text").children[i].focus(); // the buttons are new
      });
      return button;
    }));
  }

  function pattern(tokens, rows) {
    const positions = tokens.map((_, i) => i);
    const labels = tokens.map((token) => shorten(visible(token), 12));
    const z = rows.map((weights, from) => positions.map((to) => (to <= from ? weights[to] : null)));
    const text = z.map((_, from) => positions.map((to) => `${labels[from]} (${from}) attends to ${labels[to]} (${to})`));
    const axis = { tickvals: positions, ticktext: labels, fixedrange: true, showgrid: false, zeroline: false, automargin: true };
    const heatmap = {
      type: "heatmap", z, text, hoverongaps: false, zmin: 0, zmax: 1, colorscale: colours, xgap: 1, ygap: 1,
      hovertemplate: "%{text}: <b>%{z:.3f}</b><extra></extra>", colorbar: { thickness: 10, outlinewidth: 0 },
    };
    const layout = {
      height: 140 + 20 * tokens.length, margin: { l: 10, r: 10, t: 10, b: 10 }, dragmode: false,
      font: { family: "system-ui, sans-serif", size: 12 }, xaxis: { ...axis, tickangle: -90 }, yaxis: { ...axis, autorange: "reversed" },
    };
    return { data: [heatmap], layout };
  }

  function visible(token) {
    return token.trim() || (token.includes("\n") ? "⏎" : "␣");
  }

  function shorten(text, length = 60) {
    return text.length > length ? `${text.slice(0, length - 1)}…` : text;
  }
}

"use strict";

const { charts, examples, colours } = JSON.parse(document.getElementById("data").textContent);
const config = { displayModeBar: false, responsive: true };

// Draws charts side by side, each under its title, in place of what was there. All panels come first: they share the width.
function draw(panels, charts) {
  panels.querySelectorAll(".chart").forEach(Plotly.purge);
  const places = charts.map(([title]) => {
    const panel = element("div", {});
    panel.append(element("h4", { textContent: title }), element("div", { className: "chart" }));
    return panel;
  });
  panels.replaceChildren(...places);
  return Promise.all(charts.map(([, { data, layout }], i) => Plotly.newPlot(places[i].lastChild, data, layout, config)));
}

for (const [name, panels] of Object.entries(charts)) {
  const figure = document.getElementById(name);
  draw(figure.querySelector(".panels"), Object.entries(panels));
  figure.classList.add("drawn");
}


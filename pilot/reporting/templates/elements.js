function row(tag, contents) {
  const made = element("tr", {});
  contents.forEach((content) => {
    const cell = element(tag, {});
    cell.append(content);
    made.append(cell);
  });
  return made;
}

function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

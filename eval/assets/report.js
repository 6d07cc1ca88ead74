// Draws the crystals of every card, side by side, and writes what was drawn into the body's data attributes.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("crystals").textContent);
  const total = { viewers: 0, atoms: 0, errors: 0 };

  function drawCell(viewer, lattice) {
    const corner = (i, j, k) => ({
      x: i * lattice[0][0] + j * lattice[1][0] + k * lattice[2][0],
      y: i * lattice[0][1] + j * lattice[1][1] + k * lattice[2][1],
      z: i * lattice[0][2] + j * lattice[1][2] + k * lattice[2][2],
    });
    for (const [p, q] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      for (const [from, to] of [
        [corner(0, p, q), corner(1, p, q)],
        [corner(p, 0, q), corner(p, 1, q)],
        [corner(p, q, 0), corner(p, q, 1)],
      ]) {
        viewer.addCylinder({ start: from, end: to, radius: 0.04, color: "#8793a3" });
      }
    }
  }

  function draw(place, crystal) {
    const viewer = $3Dmol.createViewer(place, { backgroundAlpha: 0, disableFog: true, antialias: true });
    viewer.setBackgroundColor(0xffffff, 0);
    for (const [symbol, x, y, z] of crystal.atoms) {
      const { color, radius } = data.elements[symbol];
      viewer.addSphere({ center: { x, y, z }, radius, color, quality: 4 });
    }
    drawCell(viewer, crystal.lattice);
    viewer.zoomTo();
    viewer.rotate(-90, "vx"); // c upwards
    viewer.rotate(-24, "vy");
    viewer.rotate(14, "vx");
    viewer.zoom(1.08);
    viewer.render();
    total.viewers += 1;
    total.atoms += crystal.atoms.length;
    return viewer;
  }

  function say(place, text) {
    const note = document.createElement("div");
    note.className = "empty";
    note.textContent = text;
    place.appendChild(note);
  }

  document.querySelectorAll(".pair").forEach((card, index) => {
    const viewers = [];
    for (const place of card.querySelectorAll(".view")) {
      const crystal = data.pairs[index][place.dataset.side];
      if (!crystal) {
        say(place, "no crystal");
        continue;
      }
      try {
        viewers.push(draw(place, crystal));
      } catch (error) {
        total.errors += 1;
        place.replaceChildren();
        say(place, "no 3-D view: this browser has no WebGL");
        console.error(error);
      }
    }
    for (const one of viewers) {
      for (const other of viewers) {
        if (one !== other) one.linkViewer(other);
      }
    }
  });
  Object.assign(document.body.dataset, total);
})();

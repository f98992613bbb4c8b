(function () {
  "use strict";
  // the trace of CA atoms: a canvas that pointer, touch and keys turn; nothing moves by itself
  var canvas = document.getElementById("trace"), data = JSON.parse(document.getElementById("trace-data").textContent);
  var note = document.getElementById("trace-said"), draw2d = canvas.getContext("2d");
  var points = data.xyz, n = points.length, key = "mutated", picked = -1;
  var turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]], start = {};
  data.starts.forEach(function (i) { start[i] = true; });
  var reach = Math.max.apply(null, points.map(function (p) { return Math.hypot(p[0], p[1], p[2]); })) || 1;

  var color = function (name) {
    var hex = getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
    return [1, 3, 5].map(function (i) { return parseInt(hex.substr(i, 2), 16); });
  };
  var mix = function (a, b, share) { return a.map(function (v, i) { return Math.round(v + (b[i] - v) * share); }); };
  var css = function (c) { return "rgb(" + c.join(",") + ")"; };
  var most = {};
  Object.keys(data.values).forEach(function (k) {
    most[k] = Math.max.apply(null, data.values[k].map(function (v) { return Math.abs(v || 0); })) || 1;
  });
  var shade = function (i, c) {
    var v = data.values[key][i];
    if (v === null || v === undefined || (!data.design[i] && key !== "buried")) { return c.native; }
    return mix(c.native, key === "buried" ? c.best : v < 0 ? c.bad : c.good, Math.abs(v) / (key === "mutated" ? 100 : most[key]));
  };
  var seen = [];

  var draw = function () {
    var box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1, w = box.width, h = box.height;
    canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
    draw2d.setTransform(ratio, 0, 0, ratio, 0, 0);
    var c = { native: color("native"), good: color("good"), bad: color("bad"), best: color("best"), page: color("page") };
    var scale = Math.min(w / 2 / reach * 0.95, h / 2 / reach * 1.2);
    seen = points.map(function (p) {
      var q = turn.map(function (row) { return row[0] * p[0] + row[1] * p[1] + row[2] * p[2]; });
      return [w / 2 + scale * q[0], h / 2 - scale * q[1], q[2]];
    });
    var order = [], i;
    for (i = 0; i < n; i++) { order.push(i); }
    order.sort(function (a, b) { return seen[a][2] - seen[b][2]; });
    draw2d.lineCap = draw2d.lineJoin = "round";
    var thick = Math.max(1.5, Math.min(9, 1.3 * scale));
    order.forEach(function (i) {
      var p = seen[i], near = (p[2] / reach + 1) / 2, mine = mix(c.page, shade(i, c), 0.7 + 0.3 * near);
      draw2d.lineWidth = thick * (0.5 + 0.8 * near) * (data.design[i] ? 1 : 0.5);
      draw2d.strokeStyle = draw2d.fillStyle = css(mine);
      // half a bond to either side, bent at the residue
      draw2d.beginPath();
      if (i > 0 && !start[i]) { draw2d.moveTo((p[0] + seen[i - 1][0]) / 2, (p[1] + seen[i - 1][1]) / 2); draw2d.lineTo(p[0], p[1]); } else { draw2d.moveTo(p[0], p[1]); }
      if (i + 1 < n && !start[i + 1]) { draw2d.lineTo((p[0] + seen[i + 1][0]) / 2, (p[1] + seen[i + 1][1]) / 2); }
      draw2d.stroke();
      draw2d.beginPath(); draw2d.arc(p[0], p[1], draw2d.lineWidth * 0.72, 0, 7); draw2d.fill();
    });
    if (picked >= 0) {
      draw2d.strokeStyle = css(color("ink")); draw2d.lineWidth = 2;
      draw2d.beginPath(); draw2d.arc(seen[picked][0], seen[picked][1], thick * 1.6, 0, 7); draw2d.stroke();
    }
  };
  var rotate = function (right, up) {
    var cy = Math.cos(right), sy = Math.sin(right), cx = Math.cos(up), sx = Math.sin(up), t = turn;
    t = [0, 1, 2].map(function (j) { return [cy * t[0][j] + sy * t[2][j], t[1][j], -sy * t[0][j] + cy * t[2][j]]; });
    turn = [0, 1, 2].map(function (r) {
      return t.map(function (q) { return r === 0 ? q[0] : r === 1 ? cx * q[1] + sx * q[2] : -sx * q[1] + cx * q[2]; });
    });
    draw();
  };
  var tell = function (i) {
    var v = data.values, gain = v.gain[i];
    picked = i; draw();
    note.textContent = data.names[i] + ": " + (data.design[i] ? "mutated in " + v.mutated[i] + " % of designs" + (data.letters[i] ? " (" + data.letters[i] + ")" : "") : "context") +
      ", " + v.buried[i] + " neighbors" + (gain === null ? "" : ", designs mutated here " + (gain < 0 ? "−" : "+") + Math.abs(gain)) + ".";
  };
  var pick = function (event) {
    var box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top, best = -1, far = 400;
    seen.forEach(function (p, i) { var d = (p[0] - x) * (p[0] - x) + (p[1] - y) * (p[1] - y) - p[2] / reach; if (d < far) { far = d; best = i; } });
    if (best >= 0 && best !== picked) { tell(best); }
  };
  var held = null;
  canvas.addEventListener("pointerdown", function (event) { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); pick(event); });
  canvas.addEventListener("pointermove", function (event) {
    if (!held) { pick(event); return; }
    rotate((event.clientX - held[0]) / 120, (event.clientY - held[1]) / -120);
    held = [event.clientX, event.clientY];
  });
  ["pointerup", "pointercancel"].forEach(function (name) { canvas.addEventListener(name, function () { held = null; }); });
  var steps = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, 0.2], ArrowDown: [0, -0.2] };
  canvas.addEventListener("keydown", function (event) {
    if (steps[event.key]) { event.preventDefault(); rotate(steps[event.key][0], steps[event.key][1]); }
    if (event.key === "n" || event.key === "p") { tell((picked + (event.key === "n" ? 1 : n - 1) + n) % n); }
  });
  Array.prototype.forEach.call(document.querySelectorAll("button[data-turns]"), function (button) {
    button.addEventListener("click", function () { var by = steps[button.dataset.turns]; rotate(by[0] * 1.5, by[1] * 1.5); });
  });
  var switches = Array.prototype.slice.call(document.querySelectorAll("button[data-colors]"));
  var legends = document.querySelectorAll("[data-legend]");
  switches.forEach(function (button) {
    button.addEventListener("click", function () {
      key = button.dataset.colors;
      switches.forEach(function (b) { b.setAttribute("aria-pressed", String(b === button)); });
      Array.prototype.forEach.call(legends, function (l) { l.hidden = l.dataset.legend !== key; });
      draw();
    });
  });
  window.addEventListener("resize", draw);
  ["(prefers-color-scheme: dark)", "print"].forEach(function (query) {
    var media = window.matchMedia(query);
    if (media.addEventListener) { media.addEventListener("change", draw); }
  });
  draw();
})();

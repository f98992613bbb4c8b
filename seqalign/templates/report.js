(function () {
  "use strict";
  var all = function (what, where) { return Array.prototype.slice.call((where || document).querySelectorAll(what)); };
  var said = document.getElementById("done");
  var say = function (text) { if (said) { said.textContent = ""; setTimeout(function () { said.textContent = text; }, 30); } };

  // sorting: a design is a tbody, so that its sequence goes with its numbers
  all("table.sortable").forEach(function (table) {
    var heads = all("th", table.tHead);
    heads.forEach(function (head, column) {
      var button = head.querySelector("button");
      if (!button) { return; }
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach(function (h) { if (h.hasAttribute("aria-sort")) { h.setAttribute("aria-sort", "none"); } });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var value = function (body) {
          var text = body.rows[0].cells[column].textContent.trim().replace("−", "-"), number = parseFloat(text);
          return /^[-+]?[\d.]/.test(text) && !isNaN(number) ? number : text === "–" ? -Infinity : text;
        };
        Array.prototype.slice.call(table.tBodies).map(function (body) { return [value(body), body]; }).sort(function (a, b) {
          var x = a[0], y = b[0];
          if (typeof x !== typeof y) { x = String(x); y = String(y); }
          return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
        }).forEach(function (pair) { table.appendChild(pair[1]); });
      });
    });
  });

  // what is opened, and which designs are shown
  all("button[data-opens]").forEach(function (button) {
    var more = document.getElementById(button.dataset.opens);
    more.hidden = true;
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", function () {
      more.hidden = !more.hidden;
      button.setAttribute("aria-expanded", String(!more.hidden));
    });
  });
  all("input[data-only]").forEach(function (box) {
    box.addEventListener("change", function () {
      var bodies = all("tbody[data-ready]");
      bodies.forEach(function (body) { body.hidden = box.checked && body.dataset.ready !== "1"; });
      say(bodies.filter(function (body) { return !body.hidden; }).length + " designs shown");
    });
  });

  // the clipboard, and a way that also works where there is none
  var flash = function (button, word) {
    var before = button.textContent;
    if (before === word) { return; }
    button.textContent = word;
    setTimeout(function () { button.textContent = before; }, 1500);
  };
  var copy = function (text, what, button) {
    var old = function () {
      var area = document.createElement("textarea"), from = document.activeElement, done = false;
      area.value = text; area.setAttribute("readonly", ""); area.className = "unseen";
      document.body.appendChild(area); area.select();
      try { done = document.execCommand("copy"); } catch (error) { done = false; }
      area.remove(); if (from) { from.focus(); }
      told(done);
    };
    var told = function (done) {
      say(done ? "Copied " + what : "Select the letters and copy them by hand");
      flash(button, done ? "Copied" : "Select");
    };
    if (!navigator.clipboard || !window.isSecureContext) { old(); return; }
    navigator.clipboard.writeText(text).then(function () { told(true); }, old);
  };
  all("button[data-copies]").forEach(function (button) {
    button.addEventListener("click", function () {
      copy(document.getElementById(button.dataset.copies).textContent, button.dataset.what, button);
    });
  });

  // the designs as shown, in their order, as files
  var data = document.getElementById("table"), table = data && JSON.parse(data.textContent);
  var shown = function () {
    var rows = {}, id = table.columns.indexOf("id");
    table.rows.forEach(function (row) { rows[row[id]] = row; });
    return all("tbody[data-id]").filter(function (body) { return !body.hidden; }).map(function (body) { return rows[body.dataset.id]; });
  };
  // a cell that begins like a formula is text, as in designs.csv
  var number = /^[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|inf|nan)$/i, formula = /^'*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]/;
  var cell = function (text) {
    if (formula.test(text) && !number.test(text)) { text = "'" + text; }
    return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  };
  var makes = {
    csv: function () { return [table.columns].concat(shown()).map(function (row) { return row.map(cell).join(",") + "\n"; }).join(""); },
    fasta: function () {
      var id = table.columns.indexOf("id"), sequence = table.columns.indexOf("sequence");
      return shown().map(function (row) {
        return row[sequence].split("/").map(function (letters, n) {
          return ">" + row[id] + (table.chains[n] || "") + "\n" + letters + "\n";
        }).join("");
      }).join("");
    }
  };
  all("button[data-saves]").forEach(function (button) {
    var kind = button.dataset.saves;
    button.addEventListener("click", function () {
      var link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([makes[kind]()], { type: kind === "csv" ? "text/csv" : "text/plain" }));
      link.download = table.name + "-designs." + kind;
      document.body.appendChild(link); link.click(); link.remove();
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
      say("Saved " + link.download);
      flash(button, "Saved");
    });
  });
})();

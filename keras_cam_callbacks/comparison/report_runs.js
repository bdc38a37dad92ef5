// Which runs are shown, and what TensorBoard around the page looks like.
"use strict";

// The page lies in a frame, which is not told of TensorBoard's own switch between light and dark.
function followTheme() {
  try {
    const around = window.parent.document.body;
    const follow = () => {
      if (window.parent === window) return;
      document.documentElement.dataset.theme = around.classList.contains("dark-mode") ? "dark" : "light";
      document.dispatchEvent(new Event("themed"));
    };
    new MutationObserver(follow).observe(around, { attributeFilter: ["class"] });
    follow();
  } catch {
    // A notebook may keep what is around the frame to itself.
  }
}

function keepChoice() {
  try {
    sessionStorage.setItem("keras_cam_callbacks", location.search);
  } catch {
    // Where nothing may be kept, the page begins with the newest runs again.
  }
}

function filterRuns() {
  const text = document.getElementById("run-text").value.trim().toLowerCase();
  for (const item of document.querySelectorAll("#run-list li")) {
    item.hidden = !item.textContent.toLowerCase().includes(text);
  }
}

// A page without pictures says why. It looks again from time to time whether there are any.
async function waitForPictures() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 3000));
    if (document.hidden || document.querySelector("#run-list input:focus, #run-text:focus")) continue;
    const answer = await fetch(location.href).catch(() => null);
    if (answer?.ok && (await answer.text()).includes('id="pictures"')) location.reload();
  }
}

followTheme();
keepChoice();
document.getElementById("run-text").addEventListener("input", filterRuns);
if (!document.getElementById("pictures")) waitForPictures();

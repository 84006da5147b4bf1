// One player sounds at a time, and a line runs over its spectrogram. Without this script the players still play.
const players = [...document.querySelectorAll("audio")];

for (const audio of players) {
  const picture = audio.closest(".sound").querySelector(".picture");
  const line = picture.querySelector("i");
  const draw = () => {
    line.classList.add("on");
    line.style.left = `${(100 * audio.currentTime) / (audio.duration || 1)}%`;
    if (!audio.paused) requestAnimationFrame(draw);
  };
  audio.addEventListener("play", () => {
    for (const other of players) if (other !== audio) other.pause();
    draw();
  });
  audio.addEventListener("seeked", draw);
  audio.addEventListener("ended", () => line.classList.remove("on"));
  // A click on the picture plays from there; the keyboard has the player's own slider.
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const seek = () => {
      audio.currentTime = ((event.clientX - box.left) / box.width) * audio.duration;
      audio.play();
    };
    if (audio.readyState > 0) return seek();
    audio.addEventListener("loadedmetadata", seek, { once: true });
    audio.load();
  });
}

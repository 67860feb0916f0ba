"use strict";
/* Runs beside the page: hands on what the microphone hears, untouched. */
registerProcessor("recorder", class extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) this.port.postMessage(input[0].slice());
    return true;
  }
});

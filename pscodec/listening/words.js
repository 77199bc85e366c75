// What listeners are asked, by the kind of test.

export const WORDS = {
  mushra: {
    task:
      "You will hear a recording and several versions of it. Rate the quality of every version, from 0 to 100, " +
      "compared with the reference. One of them is the reference itself: it should get 100.",
    question: "How good is each version, compared with the reference?",
    scale: ["Bad", "Poor", "Fair", "Good", "Excellent"],
  },
  mos: {
    task: "You will hear recordings of speech, one at a time. Rate how good each of them sounds, from 1 to 5.",
    question: "How good does this recording sound?",
    scale: ["Bad", "Poor", "Fair", "Good", "Excellent"],
  },
  smos: {
    task:
      "You will hear pairs of recordings. Rate how much the second sounds like the speaker of the reference, from 1 " +
      "to 5. It is about the voice alone, not about the quality.",
    question: "How much is it the voice of the reference?",
    scale: ["Not at all", "Little", "Somewhat", "Much", "The same voice"],
  },
};

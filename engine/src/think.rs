//! Tells a reasoning model's `<think>` part from its answer while the text streams in.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of streamed text. The tags themselves belong to neither kind and are not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Thought(String),
    Answer(String),
}

/// Splits streamed text at `<think>` and `</think>`, wherever the pieces are cut.
#[derive(Debug, Default)]
pub struct ThinkParser {
    thinking: bool,
    /// The end of the text so far, while it may be the beginning of a tag.
    held: String,
}

impl ThinkParser {
    /// A parser; `thinking` when the prompt already opened the thought, as some chat templates do.
    pub fn new(thinking: bool) -> Self {
        Self { thinking, held: String::new() }
    }

    /// Takes the next piece and gives what is certain by now.
    pub fn push(&mut self, piece: &str) -> Vec<Segment> {
        self.held.push_str(piece);
        let mut segments = Vec::new();
        loop {
            let tag = if self.thinking { CLOSE } else { OPEN };
            if let Some(at) = self.held.find(tag) {
                let rest = self.held.split_off(at + tag.len());
                self.held.truncate(at);
                self.emit(&mut segments);
                self.thinking = !self.thinking;
                self.held = rest;
            } else {
                let rest = self.held.split_off(self.held.len() - open_end(&self.held, tag));
                self.emit(&mut segments);
                self.held = rest;
                return segments;
            }
        }
    }

    /// What was held back when the text ends.
    pub fn finish(mut self) -> Vec<Segment> {
        let mut segments = Vec::new();
        self.emit(&mut segments);
        segments
    }

    fn emit(&mut self, segments: &mut Vec<Segment>) {
        let text = std::mem::take(&mut self.held);
        if !text.is_empty() {
            segments.push(if self.thinking { Segment::Thought(text) } else { Segment::Answer(text) });
        }
    }
}

/// Length of the longest end of `text` that begins `tag`.
fn open_end(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|n| text.ends_with(&tag[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(thinking: bool, pieces: &[&str]) -> (String, String) {
        let mut parser = ThinkParser::new(thinking);
        let mut segments: Vec<Segment> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        segments.extend(parser.finish());
        let mut split = (String::new(), String::new());
        for segment in segments {
            match segment {
                Segment::Thought(text) => split.0 += &text,
                Segment::Answer(text) => split.1 += &text,
            }
        }
        split
    }

    #[test]
    fn every_way_to_cut_the_stream_gives_the_same() {
        let text = "a<<think>1 < 2 </thin </think>b</think>é<think>";
        let wanted = ("1 < 2 </thin ".to_string(), "a<b</think>é".to_string());
        let cuts: Vec<usize> = (0..=text.len()).filter(|i| text.is_char_boundary(*i)).collect();
        for &first in &cuts {
            for &second in cuts.iter().filter(|second| **second >= first) {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(run(false, &pieces), wanted, "{pieces:?}");
            }
        }
    }

    #[test]
    fn a_thought_that_the_prompt_opened() {
        assert_eq!(run(true, &["so", "</th", "ink>", "yes"]), ("so".into(), "yes".into()));
    }

    #[test]
    fn what_only_looked_like_a_tag_comes_out_at_once() {
        let mut parser = ThinkParser::new(false);
        assert_eq!(parser.push("1 <"), [Segment::Answer("1 ".into())]);
        assert_eq!(parser.push("= 2"), [Segment::Answer("<= 2".into())]);
        assert_eq!(parser.push("<thi"), []);
        assert_eq!(parser.finish(), [Segment::Answer("<thi".into())]);
    }
}

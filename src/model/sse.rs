//! Server-sent events: bytes in any split, one data string for each event.

/// Longest event that is kept, bytes.
const EVENT_LIMIT: usize = 16 * 1024 * 1024;

/// Puts events together. Only `data` fields matter to the protocols here.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    data: String,
    has_data: bool,
    after_return: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than 16 MiB")]
pub struct TooLarge;

impl Decoder {
    /// Takes the next bytes; returns the events that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLarge> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                // CR, LF and CR LF all end a line.
                b'\n' if self.after_return => self.after_return = false,
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    events.extend(self.end_line());
                }
                other => {
                    self.after_return = false;
                    self.line.push(*other);
                }
            }
            if self.line.len() + self.data.len() > EVENT_LIMIT {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field == "data" {
            if self.has_data {
                self.data.push('\n');
            }
            self.has_data = true;
            self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(bytes: &[u8]) -> Vec<String> {
        Decoder::default().feed(bytes).unwrap()
    }

    #[test]
    fn fields_comments_and_line_ends() {
        let text = b": ping\n\ndata: a\r\ndata:b\r\n\r\nevent: x\rdata: \xc3\xa9\r\rid: 1\n\n";
        assert_eq!(whole(text), ["a\nb", "é"]);
        assert_eq!(whole(b"data\n\n"), [""]);
        assert_eq!(whole(b"data: unfinished"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            text in "((data|event|id|:)(:| )?[a-z é]{0,6}(\r\n|\n|\r)|\n|\r\n){0,30}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            let mut decoder = Decoder::default();
            let parts = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            let split: Vec<String> = parts.flat_map(|part| decoder.feed(part).unwrap()).collect();
            prop_assert_eq!(split, whole(bytes));
        }
    }
}

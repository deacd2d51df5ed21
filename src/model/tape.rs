//! Recorded model exchanges: one JSON object a line, the request and what came back.
//!
//! Replayed, each request must be the recorded one, so that a bug report either reproduces or says
//! where it went another way.

use serde::{Deserialize, Serialize};

use super::{Answer, ModelError, Request};

/// One exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    pub request: Request,
    pub answer: Result<Answer, ModelError>,
}

/// A recording being played back.
#[derive(Debug)]
pub struct Tape {
    exchanges: std::vec::IntoIter<Exchange>,
    number: usize,
}

impl Tape {
    pub fn parse(text: &str) -> Result<Tape, String> {
        let line = |(number, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))
        };
        let exchanges: Vec<Exchange> =
            text.lines().enumerate().map(line).collect::<Result<_, _>>()?;
        Ok(Tape { exchanges: exchanges.into_iter(), number: 0 })
    }

    /// The recorded answer to the next request. What a tool returned may differ from the recorded
    /// run (times, process ids); what the model was asked to do may not.
    pub fn next(&mut self, request: &Request) -> Result<Answer, ModelError> {
        self.number += 1;
        let Some(recorded) = self.exchanges.next() else {
            return Err(ModelError::Tape(format!("the recording has no request {}", self.number)));
        };
        let shape = |request: &Request| {
            request.messages.iter().map(std::mem::discriminant).collect::<Vec<_>>()
        };
        if shape(&recorded.request) != shape(request) {
            return Err(ModelError::Tape(format!(
                "request {} is not the recorded one: the conversation took another way",
                self.number
            )));
        }
        recorded.answer
    }
}

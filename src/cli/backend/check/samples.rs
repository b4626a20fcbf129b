//! What a component is told: lines of a file, or what chance makes up.

use std::collections::BTreeSet;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha12Rng;

pub(super) const HELP: &str = "\
A file of samples has a line for each thing to be done, in order; empty lines and those that begin with # do not count:
  write DATA               a command
  session NAME             a session of that name opens
  ephemeral NAME DATA      an ephemeral command of the session; it opens if it is not open
  end NAME                 the session ends
  query DATA               a query
  wait MS                  so many milliseconds pass
DATA is the rest of the line: text as it is, or bytes as hex:00ff or base64:AP8=. Each line but queries and waits is an
entry of the log; the first has index 1.

Without a file, commands and queries are random bytes. A backend with typed messages refuses almost all of these: it is
then known to stand garbage, and little more.";

/// Longest command or query that is made up, in bytes.
const MAX_RANDOM_BYTES: usize = 64;

/// How many sessions are made up.
const RANDOM_SESSIONS: u32 = 4;

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Write(Bytes),
    Open(String),
    Ephemeral(String, Bytes),
    End(String),
    Query(Bytes),
    Wait(u64),
}

/// Reads a file of samples.
pub(super) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut sessions = BTreeSet::new();
    let mut steps = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let step = parse_line(line).and_then(|step| check_sessions(step, &mut sessions));
        steps.push(step.map_err(|error| format!("line {}: {error}", number + 1))?);
    }
    Ok(steps)
}

fn parse_line(line: &str) -> Result<Step, String> {
    let (word, rest) = split(line);
    let name = |name: &str| match name {
        "" => Err(format!("'{word}' wants the name of a session")),
        name => Ok(name.to_owned()),
    };
    Ok(match word {
        "write" => Step::Write(parse_data(rest)?),
        "session" => Step::Open(name(rest)?),
        "ephemeral" => {
            let (session, data) = split(rest);
            Step::Ephemeral(name(session)?, parse_data(data)?)
        }
        "end" => Step::End(name(rest)?),
        "query" => Step::Query(parse_data(rest)?),
        "wait" => Step::Wait(rest.parse().map_err(|_| format!("'{rest}' is no number of milliseconds"))?),
        _ => return Err(format!("'{word}' is none of write, session, ephemeral, end, query and wait")),
    })
}

/// The first word, and what follows it.
fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn parse_data(text: &str) -> Result<Bytes, String> {
    if let Some(hex) = text.strip_prefix("hex:") {
        let decoded = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map(Bytes::from);
        return decoded.map_err(|error| format!("'{hex}' is not hexadecimal: {error}"));
    }
    if let Some(base64) = text.strip_prefix("base64:") {
        let decoded = BASE64.decode(base64.as_bytes()).map(Bytes::from);
        return decoded.map_err(|error| format!("'{base64}' is not base64: {error}"));
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

fn check_sessions(step: Step, open: &mut BTreeSet<String>) -> Result<Step, String> {
    match &step {
        Step::Open(name) if !open.insert(name.clone()) => Err(format!("session '{name}' is open already")),
        Step::End(name) if !open.remove(name) => Err(format!("session '{name}' is not open")),
        Step::Ephemeral(name, _) => {
            open.insert(name.clone());
            Ok(step)
        }
        _ => Ok(step),
    }
}

/// Steps drawn from the samples, in any order and any number.
pub(super) fn draw(samples: &[Step], count: usize, rng: &mut ChaCha12Rng) -> Vec<Step> {
    (0..count).filter_map(|_| samples.choose(rng).cloned()).collect()
}

/// Steps with random bytes.
pub(super) fn make_up(count: usize, rng: &mut ChaCha12Rng) -> Vec<Step> {
    let make_up = |_| {
        let session = format!("session {}", rng.random_range(0..RANDOM_SESSIONS));
        match rng.random_range(0..20) {
            0 => Step::End(session),
            1..6 => Step::Ephemeral(session, random_bytes(rng)),
            6..9 => Step::Query(random_bytes(rng)),
            9 => Step::Wait(rng.random_range(0..100_000)),
            _ => Step::Write(random_bytes(rng)),
        }
    };
    (0..count).map(make_up).collect()
}

fn random_bytes(rng: &mut ChaCha12Rng) -> Bytes {
    let length = rng.random_range(0..=MAX_RANDOM_BYTES);
    (0..length).map(|_| rng.random::<u8>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn data(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    #[test]
    fn a_file_says_what_is_to_be_done() {
        let text = "# some\nwrite  put a 1 \n\nsession s\nephemeral s hex:00fF\nephemeral t\nend s\nquery base64:AP8=\nwait 7\n";
        let expected = [
            Step::Write(data(b"put a 1")),
            Step::Open("s".to_owned()),
            Step::Ephemeral("s".to_owned(), data(&[0, 255])),
            Step::Ephemeral("t".to_owned(), data(b"")),
            Step::End("s".to_owned()),
            Step::Query(data(&[0, 255])),
            Step::Wait(7),
        ];
        assert_eq!(parse(text).as_deref(), Ok(&expected[..]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, expected) in [
            ("write a\nshout", "line 2: 'shout' is none of"),
            ("write hex:0", "line 1: '0' is not hexadecimal"),
            ("query base64:A", "line 1: 'A' is not base64"),
            ("end s", "line 1: session 's' is not open"),
            ("session s\nsession s", "line 2: session 's' is open already"),
            ("ephemeral", "line 1: 'ephemeral' wants the name of a session"),
            ("wait long", "line 1: 'long' is no number"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn chance_is_the_same_for_a_seed() {
        let make_up = |seed| make_up(100, &mut ChaCha12Rng::seed_from_u64(seed));
        assert_eq!(make_up(1), make_up(1));
        assert_ne!(make_up(1), make_up(2));
        let samples = parse("write a\nquery b").unwrap();
        let drawn = draw(&samples, 100, &mut ChaCha12Rng::seed_from_u64(1));
        assert_eq!(drawn.len(), 100);
        assert!(samples.iter().all(|sample| drawn.contains(sample)));
        assert_eq!(draw(&[], 100, &mut ChaCha12Rng::seed_from_u64(1)), []);
    }
}

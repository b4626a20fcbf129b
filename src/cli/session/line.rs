//! What one may type.

pub(super) const HELP: &str = "\
What to type, a line each:
  write TEXT           have the backend run a command, once
  ephemeral TEXT       the same; what it writes goes when the session ends
  query TEXT           have the backend answer a query
  watch TEXT           the same, and be told once when that may have changed
  put [-e] KEY VALUE   store a value in the bundled kv backend; -e: until the session ends
  get KEY              print the value under a key
  del KEY              remove a key
  watch get KEY        print the value, and be told once when the key changes
  disarm TRIGGER       give a trigger up
  wait                 wait for a notice, unless one has come since the last wait
  close                end the session, as the end of input does";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Write { data: String, is_ephemeral: bool },
    Query(String),
    Watch(String),
    Put { key: String, value: String, is_ephemeral: bool },
    Get(String),
    Delete(String),
    WatchGet(String),
    Disarm(u64),
    Wait,
    Close,
    Help,
}

impl Line {
    /// Reads a line. There is nothing in an empty one or a comment.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let (word, rest) = split(text);
        let line = match (word, split(rest)) {
            ("write", _) => Self::Write { data: rest.to_owned(), is_ephemeral: false },
            ("ephemeral", _) => Self::Write { data: rest.to_owned(), is_ephemeral: true },
            ("query", _) => Self::Query(rest.to_owned()),
            ("watch", ("get", key)) => Self::WatchGet(one(key, "watch get KEY")?),
            ("watch", _) => Self::Watch(rest.to_owned()),
            ("put", ("-e", rest)) => Self::put(rest, true)?,
            ("put", _) => Self::put(rest, false)?,
            ("get", _) => Self::Get(one(rest, "get KEY")?),
            ("del", _) => Self::Delete(one(rest, "del KEY")?),
            ("disarm", _) => Self::Disarm(rest.parse().map_err(|_| "write: disarm TRIGGER, a number".to_owned())?),
            ("wait", ("", _)) => Self::Wait,
            ("close", ("", _)) => Self::Close,
            ("help", ("", _)) => Self::Help,
            _ => return Err(format!("'{text}' is nothing that can be done here; `help` tells what is")),
        };
        Ok(Some(line))
    }

    fn put(rest: &str, is_ephemeral: bool) -> Result<Self, String> {
        let (key, value) = split(rest);
        if key.is_empty() {
            return Err("write: put [-e] KEY VALUE".to_owned());
        }
        Ok(Self::Put { key: key.to_owned(), value: value.to_owned(), is_ephemeral })
    }
}

/// The first word, and what follows it.
fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn one(word: &str, usage: &str) -> Result<String, String> {
    if word.is_empty() || word.contains(char::is_whitespace) {
        return Err(format!("write: {usage}"));
    }
    Ok(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Line {
        Line::parse(text).unwrap().unwrap()
    }

    #[test]
    fn lines_say_what_they_look_like() {
        assert_eq!(parsed("write  a b "), Line::Write { data: "a b".into(), is_ephemeral: false });
        assert_eq!(parsed("ephemeral a"), Line::Write { data: "a".into(), is_ephemeral: true });
        assert_eq!(parsed("query null"), Line::Query("null".into()));
        assert_eq!(parsed("watch null"), Line::Watch("null".into()));
        assert_eq!(parsed("watch get k"), Line::WatchGet("k".into()));
        let put = |value: &str, is_ephemeral| Line::Put { key: "k".into(), value: value.into(), is_ephemeral };
        assert_eq!(parsed("put k some value"), put("some value", false));
        assert_eq!(parsed("put -e k v"), put("v", true));
        assert_eq!(parsed("put k"), put("", false));
        assert_eq!(parsed("disarm 3"), Line::Disarm(3));
        assert_eq!((Line::parse("  "), Line::parse("# a comment")), (Ok(None), Ok(None)));
    }

    #[test]
    fn what_cannot_be_done_is_answered_with_what_can() {
        for text in ["put", "put -e", "get", "get a b", "watch get", "disarm x", "close now", "shout"] {
            let error = Line::parse(text).unwrap_err();
            assert!(error.contains("write: ") || error.contains("`help`"), "{text}: {error}");
        }
    }
}

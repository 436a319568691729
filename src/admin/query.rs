//! The query of a request: pairs, each name once and known to what is asked for.

use std::str::FromStr;
use std::time::Duration;

use super::answer::Problem;

/// What stands behind the `?`, of which nothing may be left over.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// # Errors
    /// When it is encoded wrongly or a name stands twice.
    pub fn read(query: &str) -> Result<Query, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| decoded(&text.replace('+', " "));
            let (Some(name), Some(value)) = (plain(name), plain(value)) else {
                return Err(Problem::bad("the query is not encoded as RFC 3986 has it, or not UTF-8"));
            };
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::bad(format!("`{name}` stands twice in the query")));
            }
            pairs.push((name, value));
        }
        Ok(Query { pairs })
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        let index = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.swap_remove(index).1)
    }

    /// # Errors
    /// When the value is not of this type; `wanted` says what would be right.
    pub fn parsed<T: FromStr>(&mut self, name: &str, wanted: &str) -> Result<Option<T>, Problem> {
        let parse =
            |value: String| value.parse().map_err(|_| Problem::bad(format!("{name}={value}: {wanted} is wanted")));
        self.take(name).map(parse).transpose()
    }

    /// # Errors
    /// When the value is neither true nor false.
    pub fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        Ok(self.parsed(name, "true or false")?.unwrap_or_default())
    }

    /// Seconds, or as the configuration writes durations.
    ///
    /// # Errors
    /// When the value is none.
    pub fn duration(&mut self, name: &str) -> Result<Option<Duration>, Problem> {
        let parse = |value: String| {
            let seconds = value.parse().ok().map(Duration::from_secs);
            seconds
                .or_else(|| crate::config::duration(&value))
                .ok_or_else(|| Problem::bad(format!("{name}={value}: a duration is wanted, like 90s or 5m")))
        };
        self.take(name).map(parse).transpose()
    }

    /// So many in a second; neither infinite nor less than none, which would select all sessions or nothing.
    ///
    /// # Errors
    /// When the value is no such number.
    pub fn rate(&mut self, name: &str, wanted: &str) -> Result<Option<f64>, Problem> {
        match self.parsed::<f64>(name, wanted)? {
            Some(rate) if !(rate.is_finite() && rate >= 0.0) => {
                Err(Problem::bad(format!("{name}={rate}: {wanted} is wanted, 0 or more")))
            }
            rate => Ok(rate),
        }
    }

    /// # Errors
    /// When there is something that nobody asked for: a misspelt filter must not close every session.
    pub fn finish(&self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::bad(format!("unknown parameter `{name}`: docs/openapi.yaml has them all"))),
        }
    }
}

/// Percent-encoding undone; `None` where it is wrong, or no UTF-8.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        if *first == b'%' {
            let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
            bytes.push((digit(0)? << 4 | digit(1)?) as u8);
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_taken_and_none_is_left_over() {
        let mut query = Query::read("route=a%2Fb+c&limit=7&&older_than=5m&dry_run=true").expect("it is right");
        assert_eq!(query.take("route").as_deref(), Some("a/b c"));
        assert_eq!(query.parsed("limit", "a number"), Ok(Some(7)));
        assert_eq!(query.duration("older_than"), Ok(Some(Duration::from_secs(300))));
        assert_eq!((query.flag("dry_run"), query.flag("all")), (Ok(true), Ok(false)));
        query.finish().expect("nothing is left");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let wrong = |text: &str| {
            let mut query = Query::read(text)?;
            query.parsed::<u32>("limit", "a number")?;
            query.duration("older_than")?;
            query.flag("all")?;
            query.rate("messages_above", "a rate")?;
            query.finish()
        };
        for (text, expected) in [
            ("limit=x", "limit=x: a number is wanted"),
            ("older_than=5", ""),
            ("older_than=soon", "older_than=soon: a duration is wanted, like 90s or 5m"),
            ("all=yes", "all=yes: true or false is wanted"),
            ("messages_above=2.5", ""),
            ("messages_above=x", "messages_above=x: a rate is wanted"),
            ("messages_above=NaN", "messages_above=NaN: a rate is wanted, 0 or more"),
            ("messages_above=-inf", "messages_above=-inf: a rate is wanted, 0 or more"),
            ("messages_above=-1", "messages_above=-1: a rate is wanted, 0 or more"),
            ("rout=chat", "unknown parameter `rout`: docs/openapi.yaml has them all"),
            ("limit=1&limit=2", "`limit` stands twice in the query"),
            ("limit=%4", "the query is not encoded as RFC 3986 has it, or not UTF-8"),
            ("limit=%ff", "the query is not encoded as RFC 3986 has it, or not UTF-8"),
        ] {
            let told = wrong(text).err().map_or(String::new(), |problem| problem.detail.into_owned());
            assert_eq!(told, expected, "{text}");
        }
    }
}

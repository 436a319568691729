//! Active health: what the checks of a server tell, one after the other.

use crate::config::model::Active as Rules;

/// What its checks tell of one server.
#[derive(Debug)]
pub struct Active {
    up: bool,
    /// Results in a row that say otherwise.
    row: u32,
    /// There was a check.
    settled: bool,
}

impl Active {
    pub fn new(up: bool) -> Self {
        Active { up, row: 0, settled: false }
    }

    pub fn is_up(&self) -> bool {
        self.up
    }

    /// A check ended. Returns whether that changes anything: the first one does by itself, later ones `rise` or `fall` in
    /// a row.
    pub fn checked(&mut self, good: bool, rules: &Rules) -> bool {
        let enough = match (self.settled, good) {
            (false, _) => 1,
            (true, true) => rules.rise,
            (true, false) => rules.fall,
        };
        self.settled = true;
        self.row = if good == self.up { 0 } else { self.row + 1 };
        let changes = self.row >= enough;
        if changes {
            (self.up, self.row) = (good, 0);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::CheckKind;

    const RULES: Rules = Rules {
        kind: CheckKind::Tcp,
        path: String::new(),
        host: None,
        subprotocol: None,
        headers: Vec::new(),
        statuses: Vec::new(),
        interval: Duration::from_secs(5),
        jitter: 0,
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        initially_up: true,
    };

    /// What is known after each check of a row: `+` up, `-` down.
    fn after(mut active: Active, checks: &str) -> String {
        let check = |good: char| {
            let before = active.is_up();
            assert_eq!(active.checked(good == '+', &RULES), active.is_up() != before);
            if active.is_up() { '+' } else { '-' }
        };
        checks.chars().map(check).collect()
    }

    #[test]
    fn rise_and_fall() {
        let rows = [
            ("three bad ones in a row take it out", true, "+---", "+++-"),
            ("a good one in between begins the row again", true, "+--+--+---", "+++++++++-"),
            ("two good ones in a row bring it back", true, "+---++", "+++--+"),
            ("a bad one in between begins that row again", true, "+---+-++", "+++----+"),
            ("the first of all decides alone, when it is bad", true, "-+", "--"),
            ("and so it does when it is good", false, "+", "+"),
            ("one that begins as down stays so until then", false, "---++", "----+"),
        ];
        for (what, up, checks, expected) in rows {
            assert_eq!(after(Active::new(up), checks), expected, "{what}");
        }
    }
}

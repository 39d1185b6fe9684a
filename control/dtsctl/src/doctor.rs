//! `dtsctl doctor`: what is wrong, and what to do.

use crate::table::cell;
use serde_json::Value;
use std::fmt::Write;

/// The answer for people: what is wrong first.
pub fn show(answer: &Value) -> String {
    let mut text = String::new();
    let checks: Vec<&Value> = answer["checks"].as_array().into_iter().flatten().collect();
    for (verdict, word) in [
        ("fault", "FAULT  "),
        ("warning", "warning"),
        ("not_checked", "-      "),
        ("ok", "ok     "),
    ] {
        for check in checks.iter().filter(|c| c["verdict"] == verdict) {
            let _ = writeln!(
                text,
                "{word}  {}: {}",
                cell(&check["check"]),
                cell(&check["found"])
            );
            if let Some(todo) = check["todo"].as_str() {
                let _ = writeln!(text, "         -> {todo}");
            }
        }
    }
    let _ = writeln!(
        text,
        "faults: {}, warnings: {}",
        answer["faults"], answer["warnings"]
    );
    text
}

/// Whether anything does not work.
pub fn is_well(answer: &Value) -> bool {
    answer["faults"] == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_come_first_and_say_what_to_do() {
        let check = |check, verdict, todo: Option<&str>| json!({ "check": check, "verdict": verdict, "found": "so", "todo": todo });
        let answer = json!({ "node": 1, "faults": 1, "warnings": 1, "checks": [
            check("a", "ok", None),
            check("b", "not_checked", None),
            check("c", "warning", Some("this")),
            check("d", "fault", Some("that")),
        ]});
        let expected = "FAULT    d: so\n         -> that\nwarning  c: so\n         -> this\n-        b: so\n\
                        ok       a: so\nfaults: 1, warnings: 1\n";
        assert_eq!(show(&answer), expected);
        assert!(!is_well(&answer) && is_well(&json!({ "faults": 0 })));
        // No answer of a doctor is no good news.
        assert!(!is_well(&json!({})));
    }
}

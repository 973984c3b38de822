//! Wrong usage, told in our own form: clap's findings as one line and a hint.

use crate::error::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The error that a failed parse of `logd COMMAND` means; clap's help and version are no errors and
/// do not come here.
pub(super) fn error_of(command: &str, e: &clap::Error) -> Error {
    let arg = one(e, ContextKind::InvalidArg);
    let name = option_name(&arg);
    let value = one(e, ContextKind::InvalidValue);
    let help = format!("logd {command} --help");
    match e.kind() {
        ErrorKind::UnknownArgument => unknown(e, &name, help),
        ErrorKind::InvalidValue if value.is_empty() => {
            Error::usage(format!("{name}: a value is missing")).hint(arg)
        }
        ErrorKind::InvalidValue => invalid_value(e, &name, &value, help),
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(e).map(|s| s.to_string());
            let why = why.unwrap_or_else(|| "not a valid value".into());
            Error::usage(format!("{name} {value}: {why}")).hint(help)
        }
        ErrorKind::MissingRequiredArgument => {
            Error::usage(format!("{} is missing", name.replace("...", ""))).hint(help)
        }
        ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            Error::usage(format!("{name} {value}: wrong number of values")).hint(help)
        }
        ErrorKind::NoEquals => Error::usage(format!("{name}: write {name}=VALUE")).hint(help),
        ErrorKind::ArgumentConflict => {
            let prior = option_name(&one(e, ContextKind::PriorArg));
            Error::usage(format!("{name} and {prior} exclude each other")).hint(help)
        }
        ErrorKind::InvalidUtf8 => Error::usage("an option's value is not UTF-8").hint(help),
        _ => Error::usage(first_line(&e.to_string())).hint(help),
    }
}

fn unknown(e: &clap::Error, name: &str, help: String) -> Error {
    if !name.starts_with('-') {
        return Error::usage(format!("{name}: one operand too many")).hint(help);
    }
    let error = Error::usage(format!("{name}: no such option"));
    match one(e, ContextKind::SuggestedArg) {
        s if s.is_empty() => error.hint(help),
        s => error.hint(s),
    }
}

fn invalid_value(e: &clap::Error, name: &str, value: &str, help: String) -> Error {
    let valid = match e.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(all)) => all.join(", "),
        _ => String::new(),
    };
    let error = Error::usage(format!("{name} {value}: not one of {valid}"));
    match one(e, ContextKind::SuggestedValue) {
        s if s.is_empty() => error.hint(help),
        s => error.hint(format!("{name} {s}")),
    }
}

/// A piece of context as text; of several the first; empty if there is none.
fn one(e: &clap::Error, kind: ContextKind) -> String {
    match e.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        Some(ContextValue::Strings(all)) => all.first().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

/// `--limit` of clap's `--limit <N>`, `LOG...` of `<LOG>...`.
fn option_name(arg: &str) -> String {
    match arg.starts_with('-') {
        true => arg.split([' ', '=']).next().unwrap_or(arg).to_string(),
        false => arg.replace(['<', '>', '[', ']'], ""),
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_string()
}

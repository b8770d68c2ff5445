//! The guide and the example of settings name every setting that there is, with its default.

use std::collections::BTreeSet;

use clap::{Arg, Command, CommandFactory};
use newcycle::command::CommandLine;

/// Settings of the server and of all commands, each once, in the order of the help.
fn settings() -> Vec<(String, Arg)> {
    let mut line = CommandLine::command();
    line.build();
    let mut commands: Vec<&Command> = vec![&line];
    commands.extend(
        ["worker", "demo", "export", "import", "keys", "doctor"].map(|name| line.find_subcommand(name).expect(name)),
    );
    let mut seen = BTreeSet::new();
    let arguments = commands.into_iter().flat_map(Command::get_arguments);
    let named = arguments.filter_map(|argument| Some((argument.get_env()?.to_str()?.to_owned(), argument.clone())));
    named.filter(|(name, _)| seen.insert(name.clone())).collect()
}

/// What it is unless it is set; nothing if there is no such thing, or if the help says it in words.
fn default(argument: &Arg) -> Option<String> {
    let values = argument.get_default_values().iter().filter_map(|value| value.to_str());
    let value = values.collect::<Vec<_>>().join(",");
    Some(value).filter(|value| !value.is_empty() && argument.get_action().takes_values())
}

/// The tables of the guide, as they have to be.
fn tables() -> String {
    let mut text = String::new();
    let mut present = None;
    for (name, argument) in settings() {
        let is_of_the_server = name.starts_with("SERVER") || name.starts_with("DASHBOARD");
        let unnamed = if is_of_the_server { "Server" } else { "Commands that ask a server" };
        let heading = argument.get_help_heading().unwrap_or(unnamed).to_owned();
        if present.as_ref() != Some(&heading) {
            text += &format!("\n**{heading}**\n\n| setting | default | what it is |\n| --- | --- | --- |\n");
            present = Some(heading);
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        let flag = argument.get_long().map(|long| format!(" `--{long}`")).unwrap_or_default();
        let default = default(&argument).map(|value| format!("`{value}`")).unwrap_or_default();
        text += &format!("| `{name}`{flag} | {default} | {help} |\n");
    }
    text
}

#[test]
fn the_guide_has_every_setting_as_the_help_has_it() {
    let guide = std::fs::read_to_string("docs/operations.md").expect("the guide");
    let tables = tables();
    assert!(guide.contains(&tables), "docs/operations.md is to have these tables:\n{tables}");
}

#[test]
fn the_example_has_every_setting_with_its_default() {
    let example = std::fs::read_to_string(".env.example").expect("the example");
    for (name, argument) in settings() {
        let mut lines = example.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let value = lines.find_map(|line| line.strip_prefix(&format!("{name}=")));
        assert!(value.is_some(), ".env.example lacks {name}");
        if let Some(default) = default(&argument) {
            assert_eq!(value, Some(default.as_str()), ".env.example has another default of {name}");
        }
    }
}

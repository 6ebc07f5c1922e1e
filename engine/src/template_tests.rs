//! Tests of the chat templates: shapes that published checkpoints use, and templates that misbehave.

use super::*;
use std::time::Duration;

fn template(source: &str) -> Result<ChatTemplate> {
    let config = TokenizerConfig {
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        chat_template: Some(source.into()),
        ..Default::default()
    };
    Ok(ChatTemplate::new(&config)?.expect("a template"))
}

fn ask(source: &str, think: bool) -> Result<Prompt> {
    template(source)?.render(&[Message::new("system", "Be brief."), Message::new("user", " Hi ")], think)
}

#[test]
fn no_template_is_none() {
    assert!(ChatTemplate::new(&TokenizerConfig::default()).unwrap().is_none());
}

#[test]
fn python_methods_namespaces_loop_controls_and_whitespace() {
    let source = r"{%- set ns = namespace(n=0) -%}
{% for m in messages %}
    {% if m['role'] == 'system' %}{% continue %}{% endif %}
    {%- set ns.n = ns.n + 1 %}
{{ bos_token ~ m.role.upper() + ': ' + m['content'].strip() }}{{ '' if loop.last else ', ' }}
{% endfor %}
{{- ns.n }}{% if add_generation_prompt and not tools %} >{% endif %}";
    // What jinja2 3.1 renders with trim_blocks and lstrip_blocks.
    assert_eq!(ask(source, true).unwrap().text, "<s>USER: Hi\n1 >");
}

#[test]
fn the_template_may_refuse() {
    let error = format!("{:#}", ask("{{ raise_exception('no system role here') }}", true).unwrap_err());
    assert!(error.contains("no system role here"), "{error}");
}

#[test]
fn a_template_that_loops_is_an_error() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a * b %}{% endfor %}{% endfor %}";
    let error = format!("{:#}", ask(source, true).unwrap_err());
    assert!(error.contains("it loops"), "{error}");
}

#[test]
fn a_broken_template_names_the_line() {
    let error = format!("{:#}", ask("a\n{% if %}", true).unwrap_err());
    assert!(error.contains("does not compile") && error.contains("line 2"), "{error}");
}

#[test]
fn thinking_can_be_left_out() {
    let qwen3 = "{{ messages[-1].content }}<A>{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}";
    assert_eq!(ask(qwen3, true).unwrap().text, " Hi <A>");
    assert_eq!(ask(qwen3, false).unwrap(), Prompt { text: " Hi <A><think>\n\n</think>\n\n".into(), thinking: false });

    let r1_split = "{% set c = messages[-1].content.split('</think>')[-1] %}";
    let opened = format!("{r1_split}{{{{ c }}}}<A>{{{{ '<think>\\n' }}}}");
    assert_eq!(ask(&opened, true).unwrap(), Prompt { text: " Hi <A><think>\n".into(), thinking: true });
    assert_eq!(ask(&opened, false).unwrap(), Prompt { text: " Hi <A><think>\n\n</think>\n\n".into(), thinking: false });
    let not_opened = format!("{r1_split}{{{{ c }}}}<A>");
    assert_eq!(ask(&not_opened, true).unwrap(), Prompt { text: " Hi <A>".into(), thinking: false });
    assert_eq!(
        ask(&not_opened, false).unwrap(),
        Prompt { text: " Hi <A><think>\n\n</think>\n\n".into(), thinking: false }
    );
    assert_eq!(ask("{{ messages[-1].content }}", false).unwrap().text, " Hi ");
}

#[test]
fn json_has_pythons_spacing() {
    let text = ask("{{ {'a': [1, '<é>'], 'b': {}} | tojson }}", true).unwrap().text;
    assert_eq!(text, r#"{"a": [1, "<é>"], "b": {}}"#);
    let text = ask("{{ [1, [2]] | tojson(indent=2) }}", true).unwrap().text;
    assert_eq!(text, "[\n  1,\n  [\n    2\n  ]\n]");
}

#[test]
fn dates() {
    // 2024-02-29 13:05:09 UTC was a Thursday.
    let now = UNIX_EPOCH + Duration::from_secs(1_709_211_909);
    assert_eq!(
        strftime("%d %b %Y, %A %B %m/%y %H:%M:%S %% %q", now),
        "29 Feb 2024, Thursday February 02/24 13:05:09 % %q"
    );
    let today = ask("{{ strftime_now('%Y') }}", true).unwrap().text;
    assert!(today.parse::<u32>().unwrap() >= 2024, "{today}");
}

"""Settings from files: `.env`, secrets, YAML and TOML."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.errors import ConfigError
from app.settings.load import load, take_keys, without_key
from tests.settings.sources import flags, origin


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str | bytes, mode: int = 0o600) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return str(path)


def refusal(**environ: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load({}, environ)
    line = str(refused.value)
    assert "\n" not in line
    return line


# -- a file of settings --------------------------------------------------------------------------

YAML = """\
# names as variables, as flags, or as they are in JSON
model: Qwen/Qwen3-8B
tp: 2
MAX_QUEUE: 4k
api-key: [one, two]
trust-remote-code: yes
engine_args: {page_size: 32}
dtype:
"""
TOML = """\
model = "Qwen/Qwen3-8B"
tp = 2
MAX_QUEUE = "4k"
api-key = ["one", "two"]
trust-remote-code = true
[engine_args]
page_size = 32
"""


@pytest.mark.parametrize(("name", "text"), [("server.yaml", YAML), ("server.toml", TOML)])
def test_a_file_sets_what_the_environment_could(folder: Path, name: str, text: str) -> None:
    path = write(folder / name, text)
    loaded = load(flags("--settings-file", path), {})
    settings = loaded.settings
    assert (settings.model_path, settings.tp_size, settings.max_queue) == ("Qwen/Qwen3-8B", 2, 4000)
    assert [key.get_secret_value() for key in settings.api_key] == ["one", "two"]
    assert settings.trust_remote_code is True
    assert settings.engine_args == {"page_size": 32}
    assert origin(loaded, "TP_SIZE") == ("2", f"{path} TP_SIZE")


def test_the_environment_wins_over_a_file_and_its_options_of_the_engine_are_merged(
    folder: Path,
) -> None:
    path = write(folder / "a.yaml", "port: 1\nengine_args: {page_size: 1, schedule_policy: lpm}\n")
    environ = {"SETTINGS_FILE": path, "PORT": "2", "ENGINE_ARGS": '{"page_size": 2}'}
    settings = load({}, environ).settings
    assert settings.port == 2
    assert settings.engine_args == {"page_size": 2, "schedule_policy": "lpm"}


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.yaml", "prot: 1", "there is no setting 'prot'; did you mean port?"),
        ("a.yaml", "page_size: 1", "is an option of SGLang's; set it in engine_args"),
        ("a.yaml", "settings_file: b.yaml", "says where settings are read from"),
        ("a.yaml", "port: 1\nport: 2", "it has 'port' twice"),
        ("a.yaml", "port: 1\nPORT: 2", "has port twice"),
        ("a.yaml", "tp_size: 1\ntensor-parallel-size: 2", "are the same setting"),
        ("a.yaml", "- port", "must have names and their values"),
        ("a.yaml", "port: [", "is not YAML"),
        ("a.yaml", "a: &x [1]\nb: *x", "aliases (*) are not taken, line 2, column 4"),
        ("a.yaml", "port: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("a.yaml", 'port: !!int "x"', "is not YAML: a value is not of its type"),
        ("a.yaml", b"port: \xff", "is not UTF-8, at byte 6"),
        ("a.yaml", b"port: 1\0", "is not YAML"),
        ("a.yaml", "x: " + "[" * 40 + "]" * 40, "has more than 32 levels"),
        ("a.yaml", "x: " + "[" * 100_000, "is not YAML: it is nested too deep"),
        ("a.yaml", "x: 1\n" * 300_000, "is larger than 1 MB"),
        ("a.yaml", "\n" * 30_000, "has more than 20,000 lines"),
        ("a.toml", "port = ", "is not TOML"),
        ("a.toml", "port = 0x" + "f" * 9000, "a.toml: Exceeds the limit"),
        ("a.toml", "[server]\nport = 1", "there is no setting 'server'"),
        ("a.yaml", "port: {a: 1}", "a.yaml PORT: must be an integer"),
    ],
)
def test_a_file_that_cannot_be_taken_is_one_line(
    folder: Path, name: str, text: str | bytes, line: str
) -> None:
    assert line in refusal(SETTINGS_FILE=write(folder / name, text))


@pytest.mark.parametrize(
    "text",
    ["*SECRET", "!SECRET", "!SE!CRET x", "&SECRET &SECRET x", "a: SECRET", '"SECRET', "%SECRET"],
)
def test_what_is_wrong_with_yaml_does_not_show_the_file(folder: Path, text: str) -> None:
    line = refusal(SETTINGS_FILE=write(folder / "a.yaml", f"port: 1\napi_key: {text}\n"))
    assert "SECRET" not in line
    assert "CRET" not in line
    assert "line " in line


def test_scalars_of_yaml_are_the_text_that_stands_there(folder: Path) -> None:
    text = (
        "api_key: [012345, 1.10, no, ~]\nrevision: 0123456\nserved_model_name: 2024-01-01\n"
        "dtype: ~\nquantization: null\ntrust_remote_code: Yes\n"
        "engine_args: {page_size: 32, dtype: 012, disable_cuda_graph: yes, revision: null}\n"
    )
    settings = load({}, {"SETTINGS_FILE": write(folder / "a.yaml", text)}).settings
    assert [key.get_secret_value() for key in settings.api_key] == ["012345", "1.10", "no"]
    assert (settings.revision, settings.dtype, settings.quantization) == ("0123456", None, None)
    assert settings.served_model_name == ("2024-01-01",)
    assert settings.trust_remote_code is True
    assert settings.engine_args == {
        "page_size": 32, "dtype": "012", "disable_cuda_graph": True, "revision": None,
    }  # fmt: skip


def test_a_file_that_is_not_there_a_folder_and_a_pipe_are_one_line(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "locked").mkdir()
    assert "SETTINGS_FILE: /no/where cannot be read" in refusal(SETTINGS_FILE="/no/where")
    assert "is no file" in refusal(SETTINGS_FILE=str(folder / "pipe"))
    assert "no file" in refusal(SETTINGS_FILE=str(folder)) or "directory" in refusal(
        SETTINGS_FILE=str(folder)
    )
    assert "cannot be read" in refusal(SETTINGS_FILE="a\0b")


# -- .env ----------------------------------------------------------------------------------------


def test_settings_of_an_env_file_in_the_working_folder_are_taken_and_told(folder: Path) -> None:
    write(folder / ".env", "export PORT=81\nAPI_KEY='a#b' # mine\nHF_HOME=/x\nHOST=${HOME}\n")
    loaded = load({}, {})
    assert (loaded.settings.port, loaded.settings.host) == (81, "${HOME}")
    assert loaded.settings.api_key[0].get_secret_value() == "a#b"
    assert origin(loaded, "PORT") == ("81", ".env PORT")
    (line,) = loaded.warnings
    assert line.startswith(f"{folder}/.env sets API_KEY, HOST, PORT; HF_HOME of it is no setting")
    assert "a#b" not in line


def test_the_environment_wins_over_an_env_file_which_wins_over_a_config_file(folder: Path) -> None:
    write(folder / ".env", "PORT=2\nMAX_QUEUE=2\n")
    path = write(folder / "a.yaml", "port: 3\nmax_queue: 3\nmax_tools: 3\n")
    settings = load({}, {"PORT": "1", "SETTINGS_FILE": path}).settings
    assert (settings.port, settings.max_queue, settings.max_tools) == (1, 2, 3)


@pytest.mark.parametrize(
    ("mode", "why"),
    [(0o666, "every user can change it"), (0o664, "its group can change it")],
)
def test_an_env_file_that_others_could_have_written_stops_the_start(
    folder: Path, mode: int, why: str
) -> None:
    path = write(folder / ".env", "API_KEY=k\n", mode=mode)
    assert refusal() == (
        f".env is not read: {why}: chmod go-w .env, or ENV_FILE=.env trusts it "
        "(ENV_FILE= reads none)"
    )
    assert load({}, {"ENV_FILE": path}).settings.api_key
    assert not load({}, {"ENV_FILE": ""}).settings.api_key
    (folder / ".env").chmod(0o644)
    assert load({}, {}).settings.api_key


@pytest.mark.parametrize(
    ("group", "members", "others", "taken"),
    [
        ("ann", [], [], True),
        ("ann", ["ann"], [], True),
        ("ann", ["ben"], [], False),
        ("ann", [], ["ben"], False),
        ("staff", [], [], False),
    ],
)
def test_a_group_of_the_user_alone_may_write_an_env_file(
    group: str,
    members: list[str],
    others: list[str],
    taken: bool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`others`: users whose own group it is."""
    path = Path(write(folder / ".env", "API_KEY=k\n", mode=0o664))
    gid, uid = path.stat().st_gid, path.stat().st_uid or 4321
    monkeypatch.setattr("app.settings.files.os.geteuid", lambda: uid)
    ann = SimpleNamespace(pw_name="ann", pw_gid=gid)
    monkeypatch.setattr("app.settings.files.pwd.getpwuid", {uid: ann}.__getitem__)
    users = [ann, *(SimpleNamespace(pw_name=name, pw_gid=gid) for name in others)]
    monkeypatch.setattr("app.settings.files.pwd.getpwall", lambda: users)
    of = SimpleNamespace(gr_name=group, gr_mem=members)
    monkeypatch.setattr("app.settings.files.grp.getgrgid", {gid: of}.__getitem__)
    if taken:
        assert load({}, {}).settings.api_key
    else:
        assert "its group can change it" in refusal()


def test_an_env_file_of_another_user_stops_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / ".env", "API_KEY=k\n")
    (folder / ".env").chmod(0o644)
    if os.geteuid() == 0:
        os.chown(folder / ".env", 12345, 12345)
    monkeypatch.setattr("app.settings.files.os.geteuid", lambda: 54321)
    assert "it belongs to another user; ENV_FILE=.env trusts it" in refusal()


def test_an_env_file_that_nobody_asked_for_and_that_cannot_be_read_stops_the_start(
    folder: Path,
) -> None:
    path = write(folder / "elsewhere.env", "API_KEY=k\n")
    (folder / ".env").symlink_to(path)
    assert refusal() == (
        ".env is not read: .env cannot be read: it is a link; ENV_FILE=.env trusts it "
        "(ENV_FILE= reads none)"
    )
    assert load({}, {"ENV_FILE": ".env"}).settings.api_key
    for target in ("nowhere", ".env"):
        (folder / ".env").unlink()
        (folder / ".env").symlink_to(target)
        assert "it is a link" in refusal()
    (folder / ".env").unlink()
    os.mkfifo(folder / ".env")  # as 1Password has it
    assert "is no file" in refusal()
    (folder / ".env").unlink()
    for content, why in ((b"API_KEY=\xff", "is not UTF-8"), (b"API_KEY=k\0", "is not text")):
        write(folder / ".env", content)
        assert why in refusal()
        assert refusal().endswith("(ENV_FILE= reads none)")
        assert why in refusal(ENV_FILE=".env")


def test_a_folder_or_a_device_in_the_place_of_an_env_file_is_none(folder: Path) -> None:
    (folder / ".env").mkdir()  # as `python -m venv .env` makes it
    assert load({}, {}).warnings == []
    (folder / ".env").rmdir()
    (folder / ".env").symlink_to("/dev/null")  # stands for a device that is mounted there
    assert load({}, {}).warnings == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("PORT=1\n\nAPI_KEY sk-SECRET\n", "line 3: it is not NAME=value"),
        ("API_KEY='sk-SECRET\n", "line 1: it is not NAME=value"),
        ("API_KEY\n", "line 1: it is not NAME=value"),
        ("PORT=1\nPORT:2", "line 2: it is not NAME=value"),
        ("api-key:sk-SECRET=\n", "line 1: it is not NAME=value"),
        ("API_KEY=a\nPORT=1\nAPI_KEY=sk-SECRET\n", "line 3: API_KEY is there twice"),
        ("API_KEY_FILE=/x\n", "line 1: API_KEY_FILE says where settings are read from"),
        ("PORT=1\nSECRETS_DIR=/x\n", "line 2: SECRETS_DIR says where settings are read from"),
        ("SETTINGS_FILE=/etc/passwd\n", "line 1: SETTINGS_FILE says where"),
        ("ENV_FILE=/etc/passwd\n", "line 1: ENV_FILE says where"),
    ],
)
def test_a_line_of_an_env_file_that_would_be_dropped_stops_the_start(
    folder: Path, text: str, line: str
) -> None:
    path = write(folder / ".env", text)
    for refused in (refusal(), refusal(ENV_FILE=path)):
        assert line in refused
        assert "sk-" not in refused
    assert refusal().endswith("(ENV_FILE= reads none)")


def test_a_name_alone_is_well_after_its_value(folder: Path) -> None:
    write(folder / ".env", "PORT=81\nexport PORT\nPORT=81\nOTHER\nX=1\nX=2\n")
    assert load({}, {}).settings.port == 81


def test_no_env_file_is_read_if_none_is_wanted_and_a_wanted_one_must_be_there(
    folder: Path,
) -> None:
    write(folder / ".env", "PORT=2\n")
    assert load({}, {"ENV_FILE": ""}).settings.port == 8000
    assert "ENV_FILE: nowhere.env cannot be read" in refusal(ENV_FILE="nowhere.env")


def test_an_env_file_that_sets_nothing_here_is_mentioned_if_it_was_asked_for(folder: Path) -> None:
    path = write(folder / ".env", "HF_HOME=x\n")
    assert load({}, {}).warnings == []
    (line,) = load({}, {"ENV_FILE": path}).warnings
    assert line.startswith(f"{path} sets nothing here; HF_HOME of it is no setting")


@pytest.mark.parametrize(
    ("line", "name", "meant"),
    [
        ("api_key=sk-SECRET", "api_key", "API_KEY"),
        ("API-KEY=sk-SECRET", "API-KEY", "API_KEY"),
        ("API_KEYS=sk-SECRET", "API_KEYS", "API_KEY"),
        ("api-keys=sk-SECRET", "api-keys", "API_KEY"),
        ('"API_KEY"=sk-SECRET', '"API_KEY"', "API_KEY"),
        ("$API_KEY=sk-SECRET", "$API_KEY", "API_KEY"),
        ("API_KEYS:sk-SECRET=x", "API_KEYS", "API_KEY"),
        ("api_key_file=/x", "api_key_file", "API_KEY_FILE"),
        ("hf_token=sk-SECRET", "hf_token", "HF_TOKEN"),
    ],
)
def test_a_name_of_an_env_file_that_is_nearly_a_setting_is_warned_of(
    folder: Path, line: str, name: str, meant: str
) -> None:
    write(folder / ".env", f"{line}\n")
    assert load({}, {}).warnings == [
        f".env {name} is no setting and has no effect; did you mean {meant}?"
    ]
    write(folder / ".env", f"PORT=81\n{line}\n")
    told, slip = load({}, {}).warnings
    assert (f"{name} of it is no setting" in told, "did you mean" in slip) == (True, True)
    assert "SECRET" not in told


def test_names_of_an_env_file_that_are_other_programs_are_no_slips(folder: Path) -> None:
    write(folder / ".env", "OPENAI_API_KEY=x\nHF_TOKENS=x\nDEBUG=1\nAPI_KEYS=\nOTHER\n")
    assert load({}, {}).warnings == []


# -- secrets -------------------------------------------------------------------------------------


def test_secrets_are_files_of_a_folder_in_lower_or_upper_case(folder: Path) -> None:
    write(folder / "secrets" / "api_key", "sk-1\n")
    write(folder / "secrets" / "HF_TOKEN", "hf-2\n")
    write(folder / "secrets" / "port", "99")  # no secret: not taken
    loaded = load({}, {"SECRETS_DIR": str(folder / "secrets")})
    settings = loaded.settings
    assert settings.api_key[0].get_secret_value() == "sk-1"
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "hf-2"
    assert settings.port == 8000
    assert origin(loaded, "API_KEY") == ("**********", f"{folder}/secrets/api_key")


def test_a_secret_may_be_a_file_that_a_variable_names(folder: Path) -> None:
    path = write(folder / "key", "sk-1\n")
    loaded = load({}, {"API_KEY_FILE": path})
    assert loaded.settings.api_key[0].get_secret_value() == "sk-1"
    assert origin(loaded, "API_KEY")[1] == "API_KEY_FILE"
    assert load({}, {"API_KEY_FILE": path, "API_KEY": "sk-1"}).settings.api_key
    assert "API_KEY and API_KEY_FILE are the same setting" in refusal(
        API_KEY_FILE=path, API_KEY="sk-2"
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff", "is not UTF-8"),
        (b"k" * 70_000, "is larger than 64 kB"),
    ],
)
def test_a_secret_that_cannot_be_taken_leaves_no_api_open(
    folder: Path, content: bytes, line: str
) -> None:
    path = write(folder / "secrets" / "api_key", content)
    assert line in refusal(API_KEY_FILE=path)
    assert line in refusal(SECRETS_DIR=str(folder / "secrets"))


def test_a_folder_of_secrets_that_was_asked_for_must_be_there() -> None:
    assert "SECRETS_DIR: /no/where cannot be read" in refusal(SECRETS_DIR="/no/where")


def test_the_serving_process_gets_no_service_account_key_from_any_file(folder: Path) -> None:
    path = write(folder / ".env", "GCP_SERVICE_ACCOUNT_KEY_BASE64=c2VjcmV0\n")
    write(folder / "secrets" / "gcp_service_account_key_base64", "c2VjcmV0")
    environ = {"SECRETS_DIR": str(folder / "secrets"), "ENV_FILE": path}
    assert load({}, environ, supervised=True).settings.gcp_key is None
    write(folder / "secrets" / "gcp_service_account_key_base64", "")  # it is not even read
    assert load({}, environ, supervised=True).settings.gcp_key is None
    environ["GCP_KEY_FILE"] = "/no/where"
    assert load({}, environ, supervised=True).settings.gcp_key is None
    named = without_key({"GCP_SERVICE_ACCOUNT_KEY_BASE64_FILE": path, "API_KEY_FILE": path})
    assert named == {"API_KEY_FILE": path}


def test_the_variables_that_name_files_stay_for_processes_that_read_them_again(
    folder: Path,
) -> None:
    environ = {"API_KEY_FILE": write(folder / "key", "sk-1")}
    assert take_keys(environ) == {}
    assert "API_KEY_FILE" in environ


@pytest.mark.parametrize(
    "environ",
    [
        {"DEPLOYMENT_CONFIG_JSON": '{"env_file": "x"}'},
        {"VLLM_EXTRA_ARGS": "--secrets-dir x"},
        {"SGLANG_EXTRA_ARGS": "--settings-file x"},
    ],
)
def test_where_files_are_is_not_said_where_it_would_not_be_heeded(environ: dict[str, str]) -> None:
    assert "says where settings are read from" in refusal(**environ)

"""`postroom serve`: the server in the foreground, for systemd and for terminals."""

from __future__ import annotations

import click

from postroom.cli.compose import Environment, compose_pipeline, open_registry
from postroom.cli.output import CommandFailed, ExitStatus
from postroom.config import Config, ConfigError, load_config
from postroom.hookspecs import Logger


@click.command()
@click.option("--config", "config_path", metavar="FILE", help="As before the command: postroom --config FILE serve.")
@click.option("--check", is_flag=True, help="Check the configuration, the plugins and the registry, and end.")
@click.pass_obj
def serve(environment: Environment, config_path: str | None, check: bool) -> None:
    """Run the server: milter and LMTP workers.

    SIGHUP reads the configuration again, without a refused connection. SIGTERM and SIGINT finish the mails in hand;
    a second one hurries.

    \b
    Examples:
      postroom serve
      postroom serve --check && systemctl reload postroom
    """
    path = config_path or environment.config_path
    if check:
        _check(load_config(path))
        return
    from postroom.server.engines import build_engine
    from postroom.server.housekeeping import tidy
    from postroom.server.sockets import SocketError
    from postroom.server.supervisor import Supervisor
    from postroom.server.worker import Worker
    from postroom.services.clock import SystemClock

    def housekeep(config: Config) -> None:
        tidy(config, SystemClock(), _open_log(config))

    _preload()
    worker = Worker(compose_pipeline, build_engine, _open_log)
    try:
        Supervisor(lambda: load_config(path), worker, _open_log, housekeep=housekeep).run()
    except SocketError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from None


def _preload() -> None:
    """Import what every worker needs before the fork: its memory is shared then, and workers start faster.

    The core only: plugins are imported in the workers, so that none can take the supervisor down and a reload finds
    new ones.
    """
    import postroom.fronts.lmtp.engine
    import postroom.fronts.milter.native
    import postroom.pipeline
    import postroom.quarantine
    import postroom.registry
    import postroom.services.dns
    import postroom.services.reinject
    import postroom.services.state  # noqa: F401


def _open_log(config: Config) -> Logger:
    from postroom.log import configure, get_logger

    try:
        configure(config.log)
    except OSError as error:
        raise ConfigError(
            f"{config.source}: [log] target: {config.log.target} cannot be written: {error.strerror}; "
            "create its directory, or change `target`"
        ) from None
    return get_logger()


def _check(config: Config) -> None:
    """Say what is wrong with what `serve` would use; ConfigError and RegistryError pass."""
    from postroom.plugins import find_handlers
    from postroom.server.privileges import identity
    from postroom.services.reinject import open_reinjector

    identity(config)
    open_reinjector(config)
    handlers = find_handlers(config)
    for problem in handlers.problems:
        click.echo(f"plugin {problem.name} is left out: {problem.text}", err=True)
    for name in handlers.without_plugin(config):
        click.echo(f"[handlers.{name}] configures no installed plugin: well for a program", err=True)
    open_registry(config).close()
    click.echo(f"{config.source}: good; {len(handlers.by_name)} handlers")
    if handlers.problems:
        raise CommandFailed("some plugins are left out", ExitStatus.NO)

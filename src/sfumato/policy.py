"""A trained policy for a control loop: ``policy = sfumato.policy.load("runs/pusht")``, then at every step of the loop
``robot.move(policy.act(robot.look()))``, and ``policy.reset()`` when an episode begins."""

from sfumato.fields.policy.acting import Controller, Policy, load

__all__ = ["Controller", "Policy", "load"]

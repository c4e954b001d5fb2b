"""The thread tuner, with a simulated machine: how many threads compute while other processes want the processors."""

from __future__ import annotations

import random

from corral.adapters.engine_kit.step_timing import StepTime
from corral.adapters.engine_kit.thread_trials import Interruptions
from corral.adapters.engine_kit.thread_tuning import ThreadTuner


class Machine:
    """Decodes take `work_s` over the threads. Each process of `others` wants one processor all the time.

    With `tells` off, the system says nothing about idle processors, runnable threads and processor time.
    """

    def __init__(self, cpus: int = 2, work_s: float = 0.02, *, tells: bool = True) -> None:
        self.cpus = cpus
        self.work_s = work_s
        self.tells = tells
        self.others = 0
        self.now = 0.0
        self.threads = 0
        self._seen_s = 0.0
        self._idle_s = 0.0

    def tuner(self, most: int | None = None) -> ThreadTuner:
        return ThreadTuner(most or self.cpus, lambda: self.now, idle=self.idle, runnable=lambda: self.runnable())

    def step(self, threads: int, tokens: int = 1) -> StepTime:
        """All threads are as slow as the one that shares its processor with most others, and then wait for it."""
        share = min(1.0, self.cpus / (threads + self.others))
        took = tokens * self.work_s / threads / share
        if share < 1 and threads > 1:
            took *= 2
        self.now += took
        self._idle_s += took * max(0.0, self.cpus - threads - self.others)
        return StepTime(took, took * threads * share if self.tells else None)

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self._idle_s += seconds * max(0, self.cpus - self.others)

    def idle(self) -> float | None:
        since, self._seen_s = self.now - self._seen_s, self.now
        idle_s, self._idle_s = self._idle_s, 0.0
        return idle_s / since if self.tells and since else None

    def runnable(self) -> int | None:
        return self.others + 1 if self.tells else None


def decode(machine: Machine, tuner: ThreadTuner, steps: int, tokens: int = 1) -> list[int]:
    used = []
    for _ in range(steps):
        used.append(tuner.next_threads())
        tuner.record(tokens, machine.step(used[-1], tokens))
    return used


def seconds(machine: Machine, threads: int) -> float:
    return machine.step(threads).wall_s


def test_all_threads_on_a_quiet_machine() -> None:
    """If nothing else runs, the thread count never changes, because trials cost time."""
    for tells in (True, False):
        machine = Machine(tells=tells)
        tuner = machine.tuner()
        tuner.begin(lambda threads, machine=machine: seconds(machine, threads))  # type: ignore[misc]
        assert set(decode(machine, tuner, 500)) == {2}
        assert not tuner.contended


def test_one_thread_while_another_process_runs() -> None:
    """When a process takes a processor, one thread fewer is used within a tenth of a second and more are tried hardly
    ever; when it ends, all are used again within half a second.
    """
    machine = Machine()
    tuner = machine.tuner()
    decode(machine, tuner, 50)
    machine.others = 1
    began = machine.now
    while tuner.threads == 2:
        decode(machine, tuner, 1)
    assert machine.now - began <= 0.1
    assert decode(machine, tuner, 2000).count(2) <= 4
    assert tuner.contended
    machine.others = 0
    began = machine.now
    while tuner.threads == 1:
        decode(machine, tuner, 1)
    assert machine.now - began <= 0.5
    assert set(decode(machine, tuner, 500)) == {2}
    assert not tuner.contended


def test_a_system_that_tells_nothing() -> None:
    """Without processor times and idle processors, slow steps lead to fewer threads, and more are tried at times."""
    machine = Machine(tells=False)
    tuner = machine.tuner()
    decode(machine, tuner, 50)
    machine.others = 1
    assert decode(machine, tuner, 300)[20:].count(2) < 20
    machine.others = 0
    assert set(decode(machine, tuner, 5000)[-100:]) == {2}


def test_processors_that_others_leave_are_used() -> None:
    """Of eight processors with three busy ones, five are used; then all eight."""
    machine = Machine(cpus=8)
    tuner = machine.tuner()
    machine.others = 3
    assert set(decode(machine, tuner, 1000)[-500:]) == {5}
    machine.others = 0
    assert set(decode(machine, tuner, 1000)[-100:]) == {8}


def test_fewer_threads_that_take_longer_are_no_sign() -> None:
    """Half the threads take twice the time, which leads to no further trials: when the others end after long, all are
    used again within a second, also by a large model.
    """
    machine = Machine(cpus=4, work_s=0.4)
    tuner = machine.tuner()
    decode(machine, tuner, 50)
    machine.others = 2
    assert set(decode(machine, tuner, 500)[1:]) == {2, 4}
    machine.others = 0
    began = machine.now
    while tuner.threads < 4:
        decode(machine, tuner, 1)
    assert machine.now - began <= 1.0


def test_fewer_threads_that_are_slower_are_refused() -> None:
    """Small pieces of processor time that others take are no reason to compute with half the threads for long."""
    machine = Machine()
    tuner = machine.tuner()
    used = []
    for _ in range(3000):
        used.append(tuner.next_threads())
        took = machine.step(used[-1])
        tuner.record(1, took._replace(cpu_s=0.8 * (took.cpu_s or 0.0)) if used[-1] == 2 else took)
    assert used.count(1) < 30


def test_a_moment_of_other_work_is_no_sign() -> None:
    """Half a processor that is missing for less than a tenth of a second, again and again, changes nothing."""
    machine = Machine()
    tuner = machine.tuner()
    for number in range(1000):
        took = machine.step(tuner.next_threads())
        spared = 0.75 if number % 20 < 5 else 1.0
        assert tuner.record(1, took._replace(cpu_s=spared * (took.cpu_s or 0.0))) == 2


def test_steps_vary_where_nothing_is_missing() -> None:
    """Steps of twice the usual time in which the process had all its processors change nothing: fewer threads would not
    help.
    """
    machine = Machine()
    tuner = machine.tuner()
    decode(machine, tuner, 50)
    machine.work_s *= 2
    assert set(decode(machine, tuner, 500)) == {2}


def test_idle_processors_are_used_whatever_was_refused() -> None:
    """Refused trials of fewer threads do not delay the return to all of them after a crowd."""
    machine = Machine()
    tuner = machine.tuner()
    for _ in range(2000):
        took = machine.step(tuner.next_threads())
        tuner.record(1, took._replace(cpu_s=0.8 * (took.cpu_s or 0.0)) if tuner.threads == 2 else took)
    machine.others = 1000
    assert decode(machine, tuner, 1) == [1]
    machine.others = 0
    began = machine.now
    while tuner.threads == 1:
        decode(machine, tuner, 1)
    assert machine.now - began <= 0.5


def test_more_threads_are_given_up_at_once_where_others_came() -> None:
    """If other processes have come since more threads began to be tried, the first step that shows it ends the trial,
    whatever its kind.
    """
    machine = Machine(work_s=0.2)
    idle = 1.0
    tuner = ThreadTuner(2, lambda: machine.now, idle=lambda: idle, runnable=lambda: 1)
    machine.others = 2
    idle = 0.0
    decode(machine, tuner, 50)
    assert tuner.threads == 1
    idle = 1.0
    while tuner.threads == 1:
        tuner.record_prefill(64, machine.step(1, 1))
    assert decode(machine, tuner, 2) == [2, 1]


def test_processors_that_were_idle_during_a_pause() -> None:
    """What was idle while nothing was computed is no reason to try more threads."""
    machine = Machine()
    tuner = machine.tuner()
    machine.others = 1
    decode(machine, tuner, 100)
    machine.others = 0
    machine.pause(5.0)
    machine.others = 1
    assert set(decode(machine, tuner, 500)) == {1}


def test_a_crowd_is_noticed_before_the_step() -> None:
    """If far more threads want to run than there are processors, one thread computes the very next step."""
    machine = Machine(cpus=2)
    tuner = machine.tuner()
    decode(machine, tuner, 10)
    machine.others = 1000
    assert decode(machine, tuner, 1) == [1]
    assert machine.tuner().begin(lambda threads: 1 / threads) == 1


def test_a_crowd_of_low_priority_is_harmless() -> None:
    """If a crowd leaves the processors to this process, all threads are used again, and stay."""
    machine = Machine()
    tuner = ThreadTuner(2, lambda: machine.now, idle=lambda: 2.0, runnable=lambda: 1000)
    assert decode(machine, tuner, 1) == [1]
    assert set(decode(machine, tuner, 200)[100:]) == {2}


def test_more_threads_are_tried_without_idle_processors() -> None:
    """Where others keep all processors busy but at a lower priority than this process, that is found in a minute."""
    machine = Machine()
    tuner = ThreadTuner(2, lambda: machine.now, idle=lambda: 0.0, runnable=lambda: 3)
    machine.others = 1
    decode(machine, tuner, 100)
    assert tuner.threads == 1
    machine.others = 0
    assert set(decode(machine, tuner, 6000)[-100:]) == {2}


def test_the_first_piece_of_a_prompt_tells() -> None:
    """A prompt's first piece on a busy machine leads to fewer threads for the second one."""
    machine = Machine(work_s=0.005)
    tuner = machine.tuner()
    machine.others = 2
    used = []
    for _ in range(3):
        used.append(tuner.next_threads())
        tuner.record_prefill(64, machine.step(used[-1], 64))
    assert used == [2, 1, 1]
    assert tuner.contended


def test_a_busy_machine_is_noticed_at_load() -> None:
    """Loading on a busy machine begins with one thread."""
    machine = Machine()
    machine.others = 1
    assert machine.tuner().begin(lambda threads: seconds(machine, threads)) == 1


def test_a_number_that_was_asked_for_is_the_most() -> None:
    """With fewer threads than processors, all of them compute beside others that leave enough processors, fewer beside
    others that do not, and never more, however many processors are idle.
    """
    machine = Machine(cpus=8)
    tuner = machine.tuner(4)
    assert tuner.begin(lambda threads: seconds(machine, threads)) == 4
    for others, expected in ((0, 4), (4, 4), (5, 3), (0, 4)):
        machine.others = others
        used = decode(machine, tuner, 2000)
        assert max(used) == 4
        assert set(used[-100:]) == {expected}
        assert tuner.contended == (expected < 4)


def test_one_thread_that_was_asked_for() -> None:
    """One thread stays one, on an idle machine and in a crowd; that the machine is busy is seen all the same."""
    machine = Machine(cpus=4)
    tuner = machine.tuner(1)
    assert tuner.begin(lambda threads: seconds(machine, threads)) == 1
    for others, contended in ((0, False), (100, True)):
        machine.others = others
        assert set(decode(machine, tuner, 500)) == {1}
        assert tuner.contended == contended


def test_processors_that_are_taken_away() -> None:
    """If a process has more threads than it is left processors, as many compute as there are, and more hardly ever."""
    machine = Machine(cpus=8)
    tuner = machine.tuner()
    decode(machine, tuner, 100)
    machine.cpus = 2
    assert decode(machine, tuner, 2000).count(2) > 1950


def test_steps_of_different_sizes_are_not_compared() -> None:
    """A growing batch takes longer, which does not count as a slowdown."""
    machine = Machine()
    tuner = machine.tuner()
    dice = random.Random(3)
    for _ in range(300):
        assert decode(machine, tuner, 1, tokens=dice.choice([1, 2, 8])) == [2]


def test_a_deeper_prompt_is_no_sign() -> None:
    """Chunks deep in a prompt take longer than the first, which does not change the thread count."""
    tuner = Machine().tuner()
    assert {tuner.record_prefill(64, StepTime(0.1 + 0.005 * depth)) for depth in range(40)} == {2}


def test_a_trial_whose_kind_of_step_ends() -> None:
    """If no more steps come of the kind that a trial compares, the trial ends with the fewer threads."""
    machine = Machine()
    tuner = machine.tuner()
    machine.others = 2
    tuner.record_prefill(64, machine.step(2, 64))
    assert set(decode(machine, tuner, 100)) == {1}


def test_a_gpu_is_no_busy_machine() -> None:
    """While a GPU computes, processor time is missing in every step, which does not count; nor does a crowd."""
    tuner = ThreadTuner(2, lambda: 0.0, on_cpu=False, idle=lambda: 2.0, runnable=lambda: 1000)
    assert tuner.begin(lambda threads: 1.0) == 2
    for _ in range(200):
        assert tuner.next_threads() == 2
        tuner.record(1, StepTime(0.02, 0.001))
    assert not tuner.contended


def test_fewer_threads_at_once_after_an_interruption() -> None:
    """What was given up needs no trial: the next step has only the threads that had processors, at least one. All are
    used again when the others have ended."""
    machine = Machine(cpus=8)
    tuner = machine.tuner()
    decode(machine, tuner, 10)
    machine.others = 3
    assert tuner.interrupted(StepTime(0.1, 0.52)) == tuner.next_threads() == 5
    assert tuner.contended
    assert tuner.interrupted(StepTime(0.1, 0.05)) == 1
    machine.others = 0
    assert decode(machine, tuner, 100)[-1] == 8
    assert not tuner.contended


def test_an_interruption_ends_a_trial() -> None:
    """More threads that were being tried are not kept."""
    machine = Machine()
    tuner = machine.tuner()
    tuner.interrupted(StepTime(0.1, 0.1))
    while decode(machine, tuner, 1) == [1]:
        pass
    assert tuner.threads == 2
    assert tuner.interrupted(StepTime(0.1, 0.1)) == 1
    assert decode(machine, tuner, 2) == [1, 1]


def test_what_is_ordinary_is_tolerated() -> None:
    """Until steps with all threads have been seen, nothing is interrupted; then, what is missing beyond what always is:
    a quota, or processors of different speed. A single thread is never interrupted."""
    machine = Machine(cpus=4)
    tuner = machine.tuner()
    assert tuner.tolerated is None
    for _ in range(20):
        tuner.record(1, StepTime(0.02, 0.07))
    assert tuner.tolerated is not None
    assert 1.0 < tuner.tolerated < 1.2
    assert machine.tuner(1).tolerated is None


def test_another_device_is_not_interrupted() -> None:
    """Threads that wait for a GPU have no processor time, which says nothing."""
    tuner = ThreadTuner(4, on_cpu=False)
    for _ in range(20):
        tuner.record(1, StepTime(0.02, 0.08))
    assert tuner.tolerated is None


def test_false_alarms_become_rare() -> None:
    """After an interruption there is none for two seconds, and after one that follows at once for longer each time."""
    one = Interruptions()
    one.note(0.0)
    now = 100.0
    pauses = []
    for later in (0.0, 0.0, 0.0, 0.0, 60.0):
        now += later
        one.interrupted(now)
        began = now
        while one.tolerated(now, 0.0) is None:
            now += 0.1
        pauses.append(round(now - began))
    assert pauses == [2, 4, 8, 16, 2]


def test_a_trial_of_more_threads_may_be_interrupted() -> None:
    """Also when no step with all threads has ended yet, or one was interrupted a moment ago: a trial that fails costs a
    moment, not seconds."""
    machine = Machine()
    machine.others = 1
    tuner = machine.tuner()
    assert tuner.begin(lambda threads: seconds(machine, threads)) == 1
    machine.others = 0
    while decode(machine, tuner, 1) == [1]:
        pass
    assert tuner.threads == 2
    assert tuner.tolerated is not None
    assert 0.6 <= tuner.tolerated < 0.9
    assert tuner.interrupted(StepTime(0.1, 0.1)) == 1
    while tuner.threads == 1:
        decode(machine, tuner, 1)
    assert tuner.tolerated is not None

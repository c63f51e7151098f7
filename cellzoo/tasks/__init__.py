"""Tasks: data, and the measures that score predictions on it."""

from cellzoo.tasks.base import Task, list_tasks, register_task, tasks
from cellzoo.tasks.data import DataError
from cellzoo.tasks.digits import Digits
from cellzoo.tasks.jsb import JSB
from cellzoo.tasks.synthetic import Adding, Copy

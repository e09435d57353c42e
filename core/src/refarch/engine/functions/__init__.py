"""What a technique's author writes, and the standard parts: functions, gates, experts, schedules."""
